"""Packs the files of an upload into one archive, the same for the same files."""

import gzip
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

from spell_cli.errors import CliError
from spell_cli.gathering import Local, opened, unchanged
from spell_cli.terminal import short_path

ROOT = "upload"
_LEVEL = 6


def pack(files: Sequence[Local], on_bytes: Callable[[int], None]) -> BinaryIO:
    """An open file with a tar.gz of these; it is gone when it is closed.

    Raises:
        CliError: a file cannot be read, changes meanwhile, or there is no room.
    """
    archive = cast(BinaryIO, tempfile.TemporaryFile(prefix="spell-upload-"))  # noqa: SIM115 -- handed out
    try:
        with (
            gzip.GzipFile(filename="", fileobj=archive, mode="wb", compresslevel=_LEVEL, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for local in sorted(files, key=lambda local: local.path):
                _add(tar, local)
                on_bytes(local.size)
        archive.flush()
    except BaseException as error:
        archive.close()
        if isinstance(error, OSError):
            raise CliError(f"The archive cannot be made: {error.strerror or error}.") from None
        raise
    return archive


def _add(tar: tarfile.TarFile, local: Local) -> None:
    member = tarfile.TarInfo(f"{ROOT}/{local.path}")
    member.size, member.mode, member.mtime = local.size, local.mode, local.mtime_ns // 10**9
    with opened(local) as file:
        try:
            tar.addfile(member, file)
        except OSError as error:
            if "unexpected end of data" in str(error):
                raise _changed(local) from None
            raise
        if not unchanged(local, file):
            raise _changed(local)


def _changed(local: Local) -> CliError:
    return CliError(f"'{short_path(local.path)}' changed while it was packed.")
