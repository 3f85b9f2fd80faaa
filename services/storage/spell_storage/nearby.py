"""Files that whoever asks has open on this machine: they are read where they are, instead of being sent (shell).

The kernel says which process is at the other end of a Unix socket, so nobody can name a file that he has not opened
himself. That it is the file that is meant is seen by its device and its number: where the two are not in one place, or
somebody stands between them, it is another one, or none, and the bytes are sent.
"""

import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from io import FileIO
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
        path = f"/proc/{_CREDENTIALS.unpack(credentials)[0]}/fd/{number}"
        with suppress(OSError):
            # Looked at before it is opened: opening what is no file may do something.
            if _is(os.stat(path), identity):  # noqa: PTH116 -- not a path, but a file that is open
                file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                if _is(os.fstat(file.fileno()), identity):
                    return file
                file.close()
    raise InvalidError(
        blob_packs.FILE_UNREACHABLE, "file: it cannot be read from here; send its bytes", field="file"
    )


def _is(status: os.stat_result, identity: str) -> bool:
    return stat.S_ISREG(status.st_mode) and blob_packs.identity(status) == identity
