"""Keeps runs in containers from what only the machine itself should reach, by rules for their bridge (shell)."""

import asyncio
import os
import shutil
from collections.abc import Iterator

#: Where clouds answer whoever runs on a machine of theirs, often with credentials of that machine.
METADATA = ("169.254.0.0/16", "100.100.100.200/32")
#: Some have their name server at the same address.
_NAMES = "53"
_SECONDS_MAX = 20.0
#: Another program may be changing rules.
_LOCK_SECONDS = "5"

Rule = tuple[str, ...]


def rules(bridge: str, forward: str, *, host: bool) -> Iterator[Rule]:
    """Chain and rest of each rule. `forward` is the chain for what goes beyond the machine; `host` refuses the machine
    itself as well.
    """
    if host:
        yield "INPUT", "-i", bridge, "-m", "conntrack", "--ctstate", "NEW", "-j", "REJECT"
    for chain in ("INPUT", forward):
        for address in METADATA:
            # The address that was asked for, wherever other rules have sent it since.
            about = ("--ctorigdst", address, "!", "--ctorigdstport", _NAMES)
            yield chain, "-i", bridge, "-m", "conntrack", *about, "-j", "REJECT"


async def shield(bridge: str, *, host: bool) -> str | None:
    """See to it that the rules are there. Why they are not; None where they are."""
    if os.geteuid() or shutil.which("iptables") is None:
        return "the runner is not root, or iptables is not installed"
    forward = "DOCKER-USER" if await _refusal("-n", "-L", "DOCKER-USER") is None else "FORWARD"
    for chain, *rule in rules(bridge, forward, host=host):
        if await _refusal("-C", chain, *rule) is not None:
            refusal = await _refusal("-I", chain, *rule)
            if refusal is not None:
                return refusal
    return None


async def _refusal(*words: str) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            "iptables",
            "-w",
            _LOCK_SECONDS,
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return f"iptables: {error}"
    try:
        async with asyncio.timeout(_SECONDS_MAX):
            _, said = await process.communicate()
    except TimeoutError:
        return "iptables does not answer"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return None if process.returncode == 0 else said.decode(errors="replace").strip() or "iptables failed"
