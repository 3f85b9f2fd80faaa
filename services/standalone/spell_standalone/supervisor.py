"""The supervisor of a stack: starts everything, keeps it running, tells who asks, stops it in order."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from spell_standalone import control, kept, memory, nats, postgres, services
from spell_standalone.bus_disk import BusDisk
from spell_standalone.child import Child, end_left_over
from spell_standalone.errors import AlreadyRunningError, NotReadyError, StandaloneError
from spell_standalone.layout import Layout, replace_file

log = logging.getLogger("supervisor")

START_SECONDS_MAX = 120.0
#: A service that ended this often before the stack was ready will not become ready.
START_ENDS_MAX = 5
LOCK_SECONDS_MAX = 60.0
LOG_BYTES_MAX = 20 * 1024 * 1024
LOG_LOOK_SECONDS = 60.0
FULL_LOOK_SECONDS = 2.0
KEY_SECONDS_MAX = 30.0


class Supervisor:
    """One stack. `run` returns when `stop` was set and everything has ended, or raises what kept it from starting."""

    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self.stop = asyncio.Event()
        self._news = asyncio.Event()
        self._layout = layout
        self._environ = environ
        self._children: list[Child] = []
        self._state = "starting"
        self._problem = ""
        self._log = ""
        self._url = ""
        self._control = control.Server(layout.control, self.snapshot, self.end)

    def snapshot(self, *, with_memory: bool = False) -> dict[str, Any]:
        """What is running, in plain values."""
        listed = [
            {
                "name": child.plan.name,
                "state": child.state.value,
                "pid": child.pid,
                "restarts": child.restarts,
                "uptime_seconds": round(time.time() - child.started_at, 1) if child.pid else 0.0,
                "pss_bytes": memory.of_tree(child.pid) if with_memory and child.pid else 0,
                "problem": child.problem,
            }
            for child in self._children
        ]
        return {
            "state": self._state,
            "pid": os.getpid(),
            "pss_bytes": memory.of_process(os.getpid()) if with_memory else 0,
            "url": self._url,
            "problem": self._problem,
            "log": self._log,
            "services": listed,
        }

    async def run(self) -> None:
        """Start the stack, keep it, stop it.

        Raises:
            AlreadyRunningError: another supervisor has this directory.
            StandaloneError: the stack cannot start; the message says why.
        """
        self._layout.make()
        async with _alone(self._layout):
            self._layout.client.unlink(missing_ok=True)
            await end_left_over(self._layout)
            async with self._control:
                try:
                    await self._serve()
                except StandaloneError as error:
                    self._log = str(getattr(error, "log", None) or "")
                    self._enter("failed", str(error))
                    raise
                finally:
                    self._layout.client.unlink(missing_ok=True)

    def _enter(self, state: str, problem: str = "") -> None:
        self._state = state
        self._problem = problem
        self._changed()

    def end(self) -> None:
        """Ask for the end. Whoever asks twice does not want to wait: what is killed recovers at the next start."""
        if self.stop.is_set():
            for child in self._children:
                child.kill()
        self.stop.set()
        self._news.set()

    def _changed(self) -> None:
        self._news.set()
        if not self._control.mine() or not self._layout.data.exists():
            # Removed, and perhaps made again by another: nothing there may be touched. The kernel ends the services.
            gone = self._layout.run if self._layout.data.exists() else self._layout.data
            log.error("%s is gone: nothing is left to serve", gone)
            os._exit(os.EX_UNAVAILABLE)
        self._control.tell(self.snapshot())

    async def _serve(self) -> None:
        programs = postgres.locate(self._environ)
        nats_program = nats.locate(self._environ)
        settings = kept.load(self._layout.kept)
        self._url = services.url(settings)
        await _write_files(self._layout, settings)
        plans = services.plans(self._layout, settings, programs, nats_program, self._environ)
        self._children = [Child(plan, self._layout, self._changed) for plan in plans]
        database, *others = self._children
        failure: StandaloneError | None = None
        async with asyncio.TaskGroup() as tasks:
            # Everything at once: the services wait for what they need, and spend the time on their imports.
            for child in others:
                tasks.create_task(child.keep())
            try:
                cluster = self._layout.data / "postgres"
                await postgres.clear_stale(cluster)
                await postgres.initialise(programs, cluster, settings.postgres_passwords)
                tasks.create_task(database.keep())
                await self._until_ready()
                if not self.stop.is_set():
                    self._announce(settings)
                    await self._until_stopped()
            except StandaloneError as error:
                failure = error
            self._enter("stopping", str(failure or ""))
            self._layout.client.unlink(missing_ok=True)
            await self._stop_in_order()
        if failure is not None:
            raise failure

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.stop.is_set() and not all(child.ready.is_set() for child in self._children):
            self._complain(time.monotonic() > deadline)
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._news.wait()

    def _complain(self, too_late: bool) -> None:
        """Give up a start that goes nowhere. Once the stack has been ready, nothing is ever given up."""
        for child in self._children:
            if child.misconfigured:
                raise NotReadyError(f"{child.plan.name} does not start: {child.problem}")
            if child.failures >= START_ENDS_MAX or (too_late and not child.ready.is_set()):
                why = child.problem or f"it did not answer within {START_SECONDS_MAX:.0f} s"
                log_file = self._layout.log(child.plan.name)
                raise NotReadyError(f"{child.plan.name} does not start: {why}", log=log_file)

    def _announce(self, settings: kept.Kept) -> None:
        layout = self._layout
        host_key = (layout.data / "storage" / "ssh_host_ed25519_key.pub").read_text().split()
        replace_file(layout.known_hosts, f"[127.0.0.1]:{settings.ports['ssh']} {host_key[0]} {host_key[1]}\n")
        client = {
            "url": self._url,
            "token": settings.token,
            "pid": os.getpid(),
            "known_hosts": str(layout.known_hosts),
            "identity_file": str(layout.identity),
        }
        replace_file(layout.client, json.dumps(client, indent=2) + "\n")
        log.info("the stack is ready at %s", self._url)
        self._enter("ready")

    async def _until_stopped(self) -> None:
        bus = next(child for child in self._children if child.plan.name == "nats")
        disk = BusDisk(self._layout.log("nats"))
        look_at = time.monotonic() + LOG_LOOK_SECONDS
        while not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FULL_LOOK_SECONDS):
                    await self.stop.wait()
            if disk.hurt_and_free():
                log.warning("the disk was full, and has room again: starting the message bus again")
                bus.start_again()
            if time.monotonic() < look_at:
                continue
            look_at = time.monotonic() + LOG_LOOK_SECONDS
            self._changed()
            for file in self._layout.logs.glob("*.log"):
                _keep_small(file)

    async def _stop_in_order(self) -> None:
        for names in services.STOP_ORDER:
            async with asyncio.TaskGroup() as tasks:
                for child in self._children:
                    if child.plan.name in names:
                        tasks.create_task(child.stop())


@asynccontextmanager
async def _alone(layout: Layout) -> AsyncIterator[None]:
    """The lock of the directory. One that is being stopped is waited for."""
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    with layout.lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                other = await control.ask(layout.control)
                if other is not None and other["state"] in {"starting", "ready"}:
                    raise AlreadyRunningError(
                        f"process {other['pid']} already serves {layout.data}"
                    ) from None
                if time.monotonic() > deadline:
                    raise NotReadyError(
                        f"another supervisor holds {layout.lock} and does not answer"
                    ) from None
                await asyncio.sleep(0.05)
        yield


async def _write_files(layout: Layout, settings: kept.Kept) -> None:
    """What the services and programs outside read: tokens, keys, the configuration of NATS."""
    bus = services.bus_server(settings, layout)
    replace_file(layout.data / "nats.conf", nats.configuration(bus))
    replace_file(layout.subscriber_url, bus.url(nats.SUBSCRIBER) + "\n")
    replace_file(layout.token, settings.token + "\n")
    if layout.identity.exists() and layout.public_identity.exists():
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "spell_standalone.identity", str(layout.identity)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(KEY_SECONDS_MAX):
        _, output = await process.communicate()
    if process.returncode != 0:
        lines = output.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise StandaloneError(f"the SSH key {layout.identity} cannot be made: {lines[-1]}")


def _keep_small(file: os.PathLike[str]) -> None:
    """Move what a log holds to `<log>.1` when it has grown large. Its writer appends, so it goes on at the start.

    Where the disk has no room for a copy, what it holds is dropped: that makes some.
    """
    if os.stat(file).st_size > LOG_BYTES_MAX:  # noqa: PTH116 -- one call, any path
        kept = f"{os.fspath(file)}.1"
        try:
            shutil.copyfile(file, kept)
        except OSError as error:
            log.warning("%s cannot be kept: %s", file, error.strerror)
            with contextlib.suppress(OSError):
                os.truncate(kept, 0)
        os.truncate(file, 0)


async def _run(layout: Layout, environ: Mapping[str, str]) -> None:
    supervisor = Supervisor(layout, environ)
    loop = asyncio.get_running_loop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.end)
    await supervisor.run()


def serve(layout: Layout, environ: Mapping[str, str]) -> int:
    """Be the supervisor until SIGTERM or SIGINT; a second one does not wait. The exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_run(layout, environ))
    except AlreadyRunningError as error:
        log.info("%s", error)
        return os.EX_TEMPFAIL
    except StandaloneError as error:
        log.error("%s", error)  # noqa: TRY400 -- the sentence says it all
        return os.EX_UNAVAILABLE
    return os.EX_OK
