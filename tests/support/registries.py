"""A real registry on this machine, open or with a user and a password."""

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.docker import Docker, absent

UP_SECONDS_MAX = 20.0


@contextmanager
def registry(directory: Path, user: str = "", password: str = "") -> Iterator[str]:
    """Its host and port, for as long as the context lasts."""
    for program in ("docker-registry", "htpasswd"):
        if shutil.which(program) is None:
            absent(f"{program} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
        "http": {"addr": host},
    }
    if user:
        users = directory / "htpasswd"
        argv = ["htpasswd", "-Bbn", user, password]
        users.write_bytes(subprocess.run(argv, capture_output=True, check=True).stdout)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(users)}}
    (directory / "registry.yml").write_text(json.dumps(config))
    with (directory / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "registry.yml")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + UP_SECONDS_MAX
        while not _listening(host):
            assert process.poll() is None and time.monotonic() < deadline, (  # noqa: PT018 -- one condition
                directory / "registry.log"
            ).read_text()
            time.sleep(0.02)
        yield host
    finally:
        process.terminate()
        process.wait(20)


def _listening(host: str) -> bool:
    name, _, port = host.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((name, int(port))) == 0


def push(daemon: Docker, image: str, target: str, user: str = "", password: str = "") -> None:
    """Put an image into a registry, and forget it here."""
    name, _, tag = target.rpartition(":")
    daemon.ask("POST", f"/images/{image}/tag?repo={name}&tag={tag}")
    login = base64.urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode()).decode()
    said = daemon.ask("POST", f"/images/{name}/push?tag={tag}", None, {"X-Registry-Auth": login})
    assert b"error" not in said, said
    daemon.ask("DELETE", f"/images/{target}")
