"""The runner of one machine: `python -m spell_runner`. Wiring only."""

import asyncio
import contextlib
import os
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from spell_proto import logs, service, settings, subjects
from spell_proto.bus import connect
from spell_proto.errors import SettingsError
from spell_proto.http import Caller, json_response, serve
from spell_proto.registries import read_token
from spell_proto.views import Health
from spell_runner import doorbell, isolation, notices, nvml, quotas
from spell_runner.attempt import Means
from spell_runner.control import Control
from spell_runner.copies import Copies
from spell_runner.disks import Disks
from spell_runner.engines.auto import AutoEngine
from spell_runner.engines.docker import DockerEngine
from spell_runner.engines.engine import Engine
from spell_runner.engines.hardening import Limits, files_max
from spell_runner.engines.local import LocalEngine, Place
from spell_runner.engines.null import NullEngine
from spell_runner.engines.server import ShimServer
from spell_runner.engines.shimmed import used_code
from spell_runner.environments import Environments
from spell_runner.errors import EngineError, IsolationError
from spell_runner.forward import Forwarder
from spell_runner.gpus import models
from spell_runner.link import Link
from spell_runner.mounts.cache import Cache
from spell_runner.mounts.mounting import Mounting, used_trees
from spell_runner.reports import Reporter
from spell_runner.settings import Machine, Settings, machine
from spell_runner.tasks import Tasks
from spell_runner.trees import Trees

log = logs.get()

#: Told to stop, a machine that is taken away saves what it has first: as long as a service may take to stop.
SAVE_SECONDS_MAX = service.DRAIN_SECONDS_MAX - 2.0


async def main(stop: asyncio.Event) -> None:
    """Run until `stop`. Commands go on without us; what is in hand is on disk at any time."""
    chosen = settings.load(Settings)
    # What runs are handed must be theirs to read, whatever the shell that started us thinks.
    os.umask(0o022)
    data = Path(chosen.data_dir)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    limits = quotas.check(quotas.Limits(chosen.run_bytes_max, chosen.run_files_max))
    notice = notices.source(chosen.spot_notice, chosen.spot_endpoint, spot=chosen.spot)
    here = machine(chosen, nvml.present())
    _tell_gpus(here)
    async with AsyncExitStack() as stack:
        scheduler, storage, builder = [
            await stack.enter_async_context(Caller(address, token=token))
            for address, token in (
                (chosen.scheduler_url, ""),
                (chosen.storage_url, read_token(chosen.registry_token)),
                (chosen.builder_url, ""),
            )
        ]
        disks = Disks(data, limits, chosen.run_quota)
        stack.callback(disks.close)
        await asyncio.to_thread(disks.open)
        engine = await _engine(chosen, here, data, storage, builder, disks)
        try:
            await engine.open()
        except EngineError as error:
            raise SettingsError(f"the setting SPELL_ENGINE: {error}") from error
        stack.push_async_callback(engine.close)
        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            link = Link()
            beat = chosen.heartbeat_seconds
            control = Control(here, data, link, scheduler, tasks, disks, heartbeat_seconds=beat)
            forwarder = Forwarder(here.id, link, storage)
            reporter = Reporter(here.id, link, tasks, control.beat_soon)
            stack.enter_context(doorbell.answered(data, _ringing(control, forwarder)))
            watch = None if notice is None else notices.Watch(notice, control.reclaim)
            if watch is not None:
                # Before anything is said of this machine: no run must come to one that is going.
                await watch.look()
                tasks.start(watch.run())
            throw_away, seconds = control.throw_away, chosen.spot_grace_seconds
            control.open(Means(engine, forwarder, reporter, storage, builder, throw_away, limits, seconds))
            for work in (
                forwarder.run_live(),
                forwarder.run_shipping(),
                control.run_heartbeats(),
                control.run_removal(),
                engine.watch(),
                _stay_connected(chosen.nats_url, here.id, link, control),
            ):
                tasks.start(work)
            if chosen.listen:
                await stack.enter_async_context(serve(_health(link), chosen.listen))
            log.info("runner ready", machine_id=here.id, isolation=engine.isolation, slots=here.slots)
            await stop.wait()
            if watch is not None and await watch.look():
                await _until_settled(control)
            tasks.cancel()


def _tell_gpus(here: Machine) -> None:
    if not here.gpus:
        return
    log.info("gpus found", gpus=[gpu.uuid for gpu in here.gpus], models=models(here.gpus), each=here.run_gpus)
    if here.run_gpus * here.slots > len(here.gpus):
        log.warning("runs share GPUs: there are more slots than GPUs for them", slots=here.slots)


async def _until_settled(control: Control) -> None:
    """The notice and the order to stop come together where a cloud shuts its machines down with the one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SAVE_SECONDS_MAX):
            while not control.settled:  # noqa: ASYNC110 -- many things make it so, and none says that it was the last
                await asyncio.sleep(0.1)
    log.info("stopping for good", settled=control.settled)


async def _engine(
    chosen: Settings, here: Machine, data: Path, storage: Caller, builder: Caller, disks: Disks
) -> Engine:
    if chosen.engine == "null":
        return NullEngine()
    hidden = (str(Path(chosen.platform_dir or data).resolve()),)
    place = Place(data, hidden)
    for path in (place.empty, place.root):
        path.mkdir(mode=0o755, exist_ok=True)
    copies = Copies(
        data, builder, storage, lambda: used_code(data / "attempts"), chosen.environments_bytes_max
    )
    copies.sweep()
    environments = Environments(builder, copies)
    if chosen.engine == "docker":
        server = ShimServer(data, chosen.shimd_linger_seconds)
        return _docker(chosen, here, place, server, storage, environments, disks)
    trees = Trees(data, storage, lambda: used_code(data / "attempts"))
    _after_reboot(data / "boot_id", here.boot_id, trees)
    try:
        kept_apart = await isolation.probe(chosen.isolation, data, hidden, place.root, place.empty)
    except IsolationError as error:
        raise SettingsError(f"the setting SPELL_ISOLATION: {error}") from error
    log.info("isolation found", isolation=kept_apart.name, overlay=kept_apart.overlay)
    server = ShimServer(data, chosen.shimd_linger_seconds)
    local = LocalEngine(
        here,
        place,
        kept_apart,
        server,
        environments,
        trees,
        _mounting(chosen, here, data, storage, None),
        grace_seconds=chosen.grace_seconds,
        log_bytes_max=chosen.log_bytes_max,
        disks=disks,
    )
    if chosen.engine == "local":
        return local
    docker = _docker(chosen, here, place, server, storage, environments, disks)
    return AutoEngine(local, docker, data, server, grace_seconds=chosen.grace_seconds)


def _mounting(
    chosen: Settings, here: Machine, data: Path, storage: Caller, owner: tuple[int, int] | None
) -> Mounting:
    """What keeps resources for an engine whose runs run as `owner`; None: as us."""
    attempts = Path(chosen.data_dir) / "attempts"
    cache = Cache(data, lambda: used_trees(attempts), chosen.mount_cache_bytes_max, owner)
    # Where others run commands than before, what is kept belongs to the wrong ones.
    _after_reboot(data / "mounts/boot_id", f"{here.boot_id} {owner or ''}", cache)
    return Mounting(cache, storage)


def _docker(
    chosen: Settings,
    here: Machine,
    place: Place,
    server: ShimServer,
    storage: Caller,
    environments: Environments,
    disks: Disks,
) -> DockerEngine:
    # Its trees belong to whom its runs are run as; where that is not us, no other engine can use them.
    data = place.data / "docker"
    data.mkdir(mode=0o755, exist_ok=True)
    trees = Trees(data, storage, lambda: used_code(place.data / "attempts"))
    _after_reboot(data / "boot_id", here.boot_id, trees)
    memory = chosen.run_memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // here.slots
    limits = Limits(
        memory_bytes=memory,
        cpus=chosen.run_cpus or (os.cpu_count() or 1) / here.slots,
        shm_bytes=chosen.run_shm_bytes or memory // 2,
        pids=chosen.run_pids,
        files=files_max(),
    )
    return DockerEngine(
        here,
        place.data,
        server,
        trees,
        limits,
        storage,
        environments,
        lambda owner: _mounting(chosen, here, data, storage, owner),
        socket=chosen.docker_socket,
        image_bytes_max=chosen.image_bytes_max,
        floor=chosen.docker_floor,
        rules=chosen.run_firewall,
        grace_seconds=chosen.grace_seconds,
        log_bytes_max=chosen.log_bytes_max,
        disks=disks,
    )


def _after_reboot(path: Path, boot_id: str, kept: Trees | Cache) -> None:
    if not path.exists() or path.read_text() != boot_id:
        kept.forget()
        path.write_text(boot_id)
    kept.sweep()


def _ringing(control: Control, forwarder: Forwarder) -> doorbell.OnRing:
    def ring(what: bytes, name: str) -> None:
        attempt = control.named(name)
        if attempt is not None:
            forwarder.ring(attempt.tail)
            if what == b"s":
                attempt.bell.set()

    return ring


async def _stay_connected(url: str, machine_id: str, link: Link, control: Control) -> None:
    async with (
        connect(url, "runner") as bus,
        bus.tail(subjects.machine_commands(machine_id), control.on_command),
    ):
        link.open(bus)
        while True:
            await bus.reconnected.wait()
            bus.reconnected.clear()
            control.beat_soon(0.0)


def _health(link: Link) -> web.Application:
    async def health(_: web.Request) -> web.Response:
        detail = "" if link.connected else "no message bus"
        return json_response(
            Health(service="runner", version=service.version(), ok=link.connected, detail=detail)
        )

    app = web.Application()
    app.router.add_get("/health", health)
    return app


if __name__ == "__main__":
    service.run("runner", main)
