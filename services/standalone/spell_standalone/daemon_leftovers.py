"""What the builder of a stack has left on a Docker daemon, which a purge takes away: its images, and volumes of downloads
(shell).
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

_SOCKET = "/var/run/docker.sock"
_SECONDS_MAX = 60.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_SECONDS_MAX)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS_MAX)
        self.sock.connect(self._path)


def remove(data: Path, environ: Mapping[str, str]) -> None:
    """Remove what the builder of the stack in `data` has on the daemon, as far as that answers and nobody uses it."""
    kept = data / "builder" / "builder-id"
    if not kept.is_file():
        return
    path = environ.get("SPELL_DOCKER_SOCKET") or _SOCKET
    wanted = quote(json.dumps({"label": [f"com.spellrun.builder={kept.read_text()}"]}))
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        for image in _asked(path, "GET", f"/images/json?filters={wanted}"):
            for name in image.get("RepoTags") or ():
                _asked(path, "DELETE", f"/images/{name}")
        for volume in _asked(path, "GET", f"/volumes?filters={wanted}").get("Volumes") or ():
            _asked(path, "DELETE", f"/volumes/{volume['Name']}")


def _asked(path: str, method: str, target: str) -> Any:
    """What the daemon answers; what it refuses to remove, somebody uses."""
    with contextlib.closing(_Connection(path)) as connection:
        connection.request(method, target)
        said = connection.getresponse().read()
    return json.loads(said) if said else None
