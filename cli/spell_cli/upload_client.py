"""The calls about uploads: begun, sent over tus 1.0.0, completed, taken away."""

import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

from spell_cli import answers
from spell_cli.calls import Answer, Call
from spell_cli.client import Client, pauses
from spell_cli.errors import CliError
from spell_proto.errors import RefusedError

#: How long a part may take to arrive, and an upload to become a resource.
_PART_SECONDS = 600.0
_COMPLETE_SECONDS = 3600.0
_DIGESTS_AT_ONCE = 10_000
_TUS = {"Tus-Resumable": "1.0.0"}
_BYTES = {"Content-Type": "application/offset+octet-stream"}


class UploadClient(Client):
    """A conversation about uploads; with `public`, about what is published."""

    public = False

    def begin(self, name: str, *, compressed: bool, files: int = 0, size: int = 0) -> answers.Upload:
        """Begin an upload, or go on with it. `files` and `size` are what is going to be sent: it may have no room."""
        body = {"name": name, "compressed": compressed, "files": files, "bytes": size}
        return cast(answers.Upload, self._json("POST", self._place(""), body=body))

    def missing(self, upload_id: int, digests: Sequence[str]) -> set[str]:
        """Those whose bytes have to be sent."""
        found: set[str] = set()
        for at in range(0, len(digests), _DIGESTS_AT_ONCE):
            body = {"digests": digests[at : at + _DIGESTS_AT_ONCE]}
            found.update(self._json("POST", self._place(f"/{upload_id}/missing"), body=body)["missing"])
        return found

    def create(
        self, upload_id: int, path: str, digest: str, size: int, data: bytes | None = None
    ) -> tuple[str, int]:
        """Begin a file, or go on with it: where it is sent to, and how much of it is there."""
        told = ",".join(
            f"{name} {b64encode(value.encode()).decode()}"
            for name, value in (("path", path), ("sha256", digest))
        )
        headers = _TUS | {"Upload-Length": str(size), "Upload-Metadata": told}
        headers |= _BYTES if data is not None else {}
        call = Call("POST", self._place(f"/{upload_id}/files"), data or b"", headers, _PART_SECONDS)
        answer = self._checked(self._ask(call))
        return answer.headers["Location"], _offset(answer)

    def send_pack(self, upload_id: int, pack: bytes) -> None:
        """Send small files together; the manifest says what they are called."""
        place, headers = self._place(f"/{upload_id}/pack"), {"Content-Type": "application/octet-stream"}
        self._checked(self._ask(Call("POST", place, pack, headers, _PART_SECONDS)))

    def offset(self, place: str) -> int:
        """How much of a file is there."""
        return _offset(self._checked(self._ask(Call("HEAD", place, None, _TUS, self._answer_seconds))))

    def send(self, place: str, offset: int, data: bytes) -> int:
        """Send bytes of a file; how much of it is there. One attempt."""
        headers = _TUS | _BYTES | {"Upload-Offset": str(offset)}
        answer = self._once(Call("PATCH", place, data, headers, _PART_SECONDS))
        if answer.temporary:
            raise answer.problem()
        return _offset(self._checked(answer))

    def complete(self, upload_id: int, entries: Sequence[dict[str, Any]] | None) -> answers.Upload:
        """Make it a resource: of these files, or of the archive that was sent."""
        body = None if entries is None else {"entries": entries, "deleted": []}
        path = self._place(f"/{upload_id}/complete")
        until, waiting = time.monotonic() + _COMPLETE_SECONDS, pauses()
        while True:
            try:
                return cast(answers.Upload, self._json("POST", path, body=body, seconds=_COMPLETE_SECONDS))
            except RefusedError as error:
                if error.code != "upload_locked":
                    raise
            if time.monotonic() > until:
                raise CliError("Somebody else is still sending a file of it; try again when that is over.")
            time.sleep(next(waiting))

    def remove(self, path: str) -> None:
        """Take an upload away, or what was published."""
        self._json("DELETE", f"/api/resources/{quote(path)}")

    def _place(self, path: str) -> str:
        return f"/api/uploads{path}" + ("?public=1" if self.public else "")

    def _checked(self, answer: Answer) -> Answer:
        if answer.status >= 400:
            raise answer.refusal()
        return answer


def _offset(answer: Answer) -> int:
    try:
        return int(answer.headers["Upload-Offset"])
    except (KeyError, ValueError):
        raise CliError("The server does not say how much of a file has arrived.") from None
