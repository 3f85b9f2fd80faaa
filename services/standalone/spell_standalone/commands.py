"""`up`, `down` and `status`: what a person asks of the stack on this machine."""

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spell_standalone import control, probes, purge, spelling
from spell_standalone.child import birth, end_left_over
from spell_standalone.layout import Layout
from spell_standalone.services import NAMES

UP_SECONDS_MAX = 180.0
DOWN_SECONDS_MAX = 90.0
_LINES_OF_LOG = 15


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 -- this is a command


async def up(layout: Layout, environ: Mapping[str, str]) -> int:
    """Start the stack in the background unless it runs, and wait until it is ready. The exit code."""
    layout.make()
    begun = time.monotonic()
    told: set[str] = set()
    server: subprocess.Popen[bytes] | None = None
    snapshot: dict[str, Any] = {}
    while time.monotonic() - begun < UP_SECONDS_MAX:
        async for snapshot in control.listen(layout.control, "watch"):
            _tell(snapshot, told, begun)
            if snapshot["state"] == "ready" and await _answers(layout, snapshot):
                if told:
                    _tell_isolation(layout)
                return os.EX_OK
            if snapshot["state"] == "failed":
                return _failed(layout, snapshot)
        code = server.poll() if server is not None else None
        if server is None:
            for complaint in spelling.complaints(environ):
                _say(complaint)
        if server is None or code == os.EX_TEMPFAIL:
            server = _start(layout, environ)
        elif code is not None:
            return _failed(layout, snapshot)
        await asyncio.sleep(0.02)
    _say(f"The stack is not ready after {UP_SECONDS_MAX:.0f} s.")
    return _failed(layout, snapshot)


def _start(layout: Layout, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with layout.log("supervisor").open("ab") as output:
        return subprocess.Popen(
            # -P: the directory the user stands in is no place to import from.
            [sys.executable, "-P", "-m", "spell_standalone", "serve", "--dir", str(layout.user)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environ),
            cwd=layout.data,
            start_new_session=True,
        )


def _tell(snapshot: dict[str, Any], told: set[str], begun: float) -> None:
    """One line for each part that has become ready since the last one."""
    if not told and snapshot["state"] == "starting":
        told.add("")
        _say("Starting the services")
    for service in snapshot["services"]:
        if told and service["state"] == "running" and service["name"] not in told:
            told.add(service["name"])
            _say(f"{service['name']} is ready ({len(told) - 1} of {len(NAMES)})")
    if told and snapshot["state"] == "ready":
        _say(f"Ready after {time.monotonic() - begun:.1f} s")


def _isolation(layout: Layout) -> str:
    """What the runner found to keep runs apart, as it wrote at its last start; empty when it does not say."""
    for file in (layout.log("runner"), layout.logs / "runner.log.1"):
        try:
            found = re.findall(rb'"isolation":"([a-z]+)"[^\n]*"event":"runner ready"', file.read_bytes())
        except OSError:
            continue
        if found:
            return str(found[-1].decode())
    return ""


def _tell_isolation(layout: Layout) -> None:
    isolation = _isolation(layout)
    if isolation == "none":
        _say("Runs are not isolated: install bubblewrap.")
    elif isolation:
        _say(f"Runs are isolated by {isolation}.")


async def _answers(layout: Layout, snapshot: dict[str, Any]) -> bool:
    return layout.client.exists() and await probes.until(snapshot["url"], "/api/health", probes.healthy, 10.0)


def _failed(layout: Layout, snapshot: dict[str, Any]) -> int:
    problem = snapshot.get("problem")
    if problem:
        _say(f"The stack cannot start: {problem}.")
    log = Path(snapshot.get("log") or (layout.log("supervisor")))
    if not problem or snapshot.get("log"):
        _say(f"The last lines of {log}:")
        for line in _tail(log):
            _say(f"  {line}")
    return os.EX_UNAVAILABLE


def _tail(log: Path) -> list[str]:
    try:
        with log.open(errors="replace") as file:
            return [line.rstrip()[:500] for line in deque(file, _LINES_OF_LOG)]
    except OSError as error:
        return [f"(it cannot be read: {error.strerror})"]


async def down(layout: Layout, *, everything: bool) -> int:
    """Stop the stack; with `everything`, end its runs too and remove its data. The exit code."""
    ran = False
    supervisor = 0
    try:
        async with asyncio.timeout(DOWN_SECONDS_MAX):
            async for snapshot in control.listen(layout.control, "stop"):
                if not ran:
                    _say("Stopping the services")
                ran = True
                supervisor = int(snapshot["pid"])
    except TimeoutError:
        _say(f"The supervisor (process {supervisor}) does not end; ending it.")
        os.kill(supervisor, 9)
    await _gone(supervisor)
    if not layout.data.exists():
        if everything:
            await purge.purge(layout.data)  # runs may have outlived even their directory
            layout.remove_short()
        _say("There is no stack here.")
        return os.EX_OK
    with layout.lock.open("w") as lock:
        if not await _locked(lock.fileno()):
            _say(f"Another supervisor holds {layout.lock} and does not answer.")
            return os.EX_UNAVAILABLE
        await end_left_over(layout)
        layout.client.unlink(missing_ok=True)
        if everything:
            await purge.purge(layout.data)
            layout.remove_short()
            _say(f"Stopped. {layout.data} is removed.")
            return os.EX_OK
    _say("Stopped." if ran else "The stack is not running.")
    going_on = purge.runs_alive(layout.data)
    if going_on:
        runs, them = ("1 run goes", "it") if going_on == 1 else (f"{going_on} runs go", "them")
        _say(f"{runs} on without it; the next 'spell up' finds {them} again.")
    return os.EX_OK


async def _gone(pid: int) -> None:
    """Wait until a supervisor that has said goodbye has also left."""
    born = birth(pid)
    deadline = time.monotonic() + DOWN_SECONDS_MAX
    while born and birth(pid) == born and time.monotonic() < deadline:  # noqa: ASYNC110 -- no event tells
        await asyncio.sleep(0.01)


async def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + DOWN_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return True
    return False


async def status(layout: Layout, *, as_json: bool) -> int:
    """Show what runs. The exit code is 0 when the stack is ready, 3 when not."""
    snapshot = await control.ask(layout.control) or {
        "state": "stopped",
        "pid": None,
        "pss_bytes": 0,
        "url": "",
        "problem": "",
        "log": "",
        "services": [],
    }
    snapshot["runs_alive"] = purge.runs_alive(layout.data)
    for service in snapshot["services"]:
        isolation = _isolation(layout) if service["name"] == "runner" else ""
        if isolation and service["state"] == "running" and not service["problem"]:
            service["problem"] = f"isolation: {isolation}"
    if as_json:
        print(json.dumps(snapshot))  # noqa: T201
    else:
        for line in _table(snapshot):
            print(line)  # noqa: T201
    return os.EX_OK if snapshot["state"] == "ready" else 3


def _table(snapshot: dict[str, Any]) -> list[str]:
    total = snapshot["pss_bytes"] + sum(service["pss_bytes"] for service in snapshot["services"])
    lines = [f"The stack is {snapshot['state']}" + (f" at {snapshot['url']}" if snapshot["url"] else "")]
    if snapshot["services"]:
        lines.append(
            f"{'SERVICE':<12} {'STATE':<11} {'PID':>8} {'RESTARTS':>8} {'UPTIME':>10} {'MEMORY':>9}  DETAIL"
        )
    lines += [
        f"{service['name']:<12} {service['state']:<11} {service['pid'] or '-':>8} {service['restarts']:>8} "
        f"{service['uptime_seconds']:>9.0f}s {service['pss_bytes'] / 1e6:>6.1f} MB  {service['problem']}".rstrip()
        for service in snapshot["services"]
    ]
    if snapshot["services"]:
        lines.append(f"{'all, with the supervisor':<53} {total / 1e6:>6.1f} MB")
    return lines
