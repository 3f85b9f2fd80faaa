"""Environments of the docker engine beside `docker build` of the same layer, through the API of the same daemon.

    python bench/images.py [--rounds 3] [--packages numpy,six] [--socket /var/run/docker.sock]

Both take packages from the public index with empty caches and end with an image on the same base, whose Python and pip
both use. Ours is a whole run, from its request to its first output, less a run without packages.
"""

import argparse
import asyncio
import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from stack import Stack, first_output, median, running, table, verdict

from spell_proto.docker import clients
from spell_proto.outside import CA_FILES

RATIO_MAX = 1.2
HIT_SECONDS_MAX = 0.030
HITS = 10


def ca_bundle() -> str | None:
    """The certificates of this machine, which an image does not know."""
    return next((os.environ[name] for name in CA_FILES if Path(os.environ.get(name, "")).is_file()), None)


def recipe(base: str, packages: list[str]) -> bytes:
    """What somebody writes who has an image with pip and needs packages, as the archive that a build takes."""
    lines = [f"FROM {base}", "USER root"]
    files: dict[str, bytes] = {}
    bundle = ca_bundle()
    if bundle is not None:
        files["ca.pem"] = Path(bundle).read_bytes()
        lines += ["COPY ca.pem /tmp/ca.pem", "ENV PIP_CERT=/tmp/ca.pem"]
    lines.append(f"RUN pip install -q --no-cache-dir {' '.join(packages)}")
    files["Dockerfile"] = "\n".join(lines).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def docker_build(socket: str, base: str, packages: list[str]) -> float:
    """Seconds that the classic builder takes, which every daemon has."""
    tag, params = "spell-bench:build", {"nocache": "1", "networkmode": "host", "rm": "1"}
    context = recipe(base, packages)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as daemon:
        begun = time.perf_counter()
        async with daemon.post("http://docker/build", params=params | {"t": tag}, data=context) as answer:
            said = await answer.text()
        seconds = time.perf_counter() - begun
        if "Successfully tagged" not in said:
            raise RuntimeError(said[-500:])
        async with daemon.delete(f"http://docker/images/{tag}?force=1"):
            return seconds


async def forget_downloads(socket: str, stack: Stack) -> None:
    """Remove what builds have downloaded."""
    builder = (stack.directory / "local" / "builder" / "builder-id").read_text()
    async with clients(socket) as both:
        for name in (each["Name"] for each in (await both.control.volumes.list())["Volumes"]):
            if name.startswith(f"spell-build-{builder}-"):
                await (await both.control.volumes.get(name)).delete()


def first(stack: Stack, environment: dict[str, Any]) -> float:
    """Seconds from a request to the first output of its run."""
    return first_output(stack, {"environment": environment})[0]


def listed(stack: Stack) -> list[dict[str, Any]]:
    """All environments, the last used first."""
    answer = stack.request(stack.connection(), "GET", "/api/environments")
    found: list[dict[str, Any]] = json.loads(answer.read())["environments"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", default="numpy,six")
    parser.add_argument("--socket", default="/var/run/docker.sock")
    chosen = parser.parse_args()
    packages = chosen.packages.split(",")
    settings = {"SPELL_ENGINE": "docker", "SPELL_DOCKER_SOCKET": chosen.socket, "SPELL_DEFAULT_FRAMEWORK": ""}
    with running(**settings) as stack:
        first(stack, {})
        (bare,) = [each for each in listed(stack) if "CPython" in each["python"]][:1]
        base = f"spell-environment:{bare['key']}"
        ours, theirs, hits, bares = [], [], [], []
        for _ in range(chosen.rounds):
            # Another builder may have left the very image on the daemon: what is ours can be removed.
            first(stack, {"pip": packages, "latest": True})
            for each in listed(stack):
                if each["key"] != bare["key"]:
                    stack.spell("env", "rm", each["key"])
            asyncio.run(forget_downloads(chosen.socket, stack))
            alone = first(stack, {})
            ours.append(first(stack, {"pip": packages, "latest": True}) - alone)
            hits += [first(stack, {"pip": packages}) for _ in range(HITS)]
            bares += [first(stack, {}) for _ in range(HITS)]
            theirs.append(asyncio.run(docker_build(chosen.socket, base, packages)))
    ratio, more = median(ours) / median(theirs), median(hits) - median(bares)
    rows = [
        (
            "cold pip layer",
            f"{median(ours):.2f} s",
            f"docker build {median(theirs):.2f} s",
            f"{ratio:.2f}x",
            verdict(ratio <= RATIO_MAX, f"<= {RATIO_MAX}x"),
        ),
        (
            "cache hit",
            f"{median(hits) * 1000:.1f} ms",
            f"without packages {median(bares) * 1000:.1f} ms",
            f"{more * 1000:+.1f} ms",
            verdict(more <= HIT_SECONDS_MAX, "<= 30 ms more"),
        ),
    ]
    table(f"Environments, docker engine, {', '.join(packages)}", rows)


if __name__ == "__main__":
    main()
