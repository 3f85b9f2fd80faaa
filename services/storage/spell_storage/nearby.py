"""Files that whoever asks has open on this machine: they are read where they are, instead of being sent (shell).

The kernel says which process is at the other end of a Unix socket, so nobody can name a file that he has not opened
himself; and it is read only for the user that storage runs as, and where he has it open for reading: storage may be
able to read more than who asks. That it is the file that is meant is seen by its device and its number: where the two
are not in one place, or somebody stands between them, it is another one, or none, and the bytes are sent.
"""

import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from aiohttp import web

from spell_proto import blob_packs
from spell_proto.errors import InvalidError

_CREDENTIALS = struct.Struct("3i")


def opened(request: web.Request, number: int, identity: str) -> FileIO:
    """The file that the caller has open under a number, if it is the one of this `identity`.

    Raises:
        InvalidError: file_unreachable.
    """
    connection: Any = request.get_extra_info("socket")
    if sys.platform == "linux" and connection is not None and connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _ = _CREDENTIALS.unpack(credentials)
        path = f"/proc/{pid}/fd/{number}"
        with suppress(OSError):
            # Looked at before it is opened: opening what is no file may do something.
            status = os.stat(path)  # noqa: PTH116 -- not a path, but a file that is open
            if user == os.geteuid() and _is_readable(pid, number) and _is(status, identity):
                file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                if _is(os.fstat(file.fileno()), identity):
                    return file
                file.close()
    raise InvalidError(
        blob_packs.FILE_UNREACHABLE, "file: it cannot be read from here; send its bytes", field="file"
    )


def _is_readable(pid: int, number: int) -> bool:
    """Whether a process has a file open for reading."""
    [flags] = [
        int(line.partition(":")[2], 8)
        for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
        if line.startswith("flags:")
    ]
    return not flags & os.O_PATH and flags & os.O_ACCMODE != os.O_WRONLY


def _is(status: os.stat_result, identity: str) -> bool:
    return stat.S_ISREG(status.st_mode) and blob_packs.identity(status) == identity
