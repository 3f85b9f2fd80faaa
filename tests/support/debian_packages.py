"""A Debian package index of tiny packages made by the test, no network: served, it is for the sources of an image."""

import email.utils
import gzip
import hashlib
import io
import tarfile
from pathlib import Path


class Repository:
    """Packages and the lists of them, all in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._records: list[str] = []
        self._write()

    def sources(self, port: int) -> bytes:
        """The line for `/etc/apt/sources.list`, for where the directory is served."""
        return f"deb [trusted=yes] http://127.0.0.1:{port}/ ./\n".encode()

    def add(self, name: str, version: str, *, script: str = "", **fields: str) -> None:
        """Add a package with a program of its name that prints it; `fields` are as `Depends`. `script` runs when it is
        installed.
        """
        told = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "Nobody <n@example.org>",
        }
        control = "".join(f"{field}: {value}\n" for field, value in (told | fields).items())
        control += "Description: for tests\n"
        scripts = {"./postinst": f"#!/bin/sh\n{script}\n".encode()} if script else {}
        program = f"#!/bin/sh\necho {name} {version}\n".encode()
        data = b"".join(
            (
                b"!<arch>\n",
                _member("debian-binary", b"2.0\n"),
                _member("control.tar.gz", _tar({"./control": control.encode(), **scripts})),
                _member("data.tar.gz", _tar({f"./usr/bin/{name}": program})),
            )
        )
        file = f"{name}_{version.replace(':', '%3a')}_all.deb"
        (self.directory / file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        self._records.append(f"{control}Filename: ./{file}\nSize: {len(data)}\nSHA256: {digest}\n\n")
        self._write()

    def lose(self, name: str) -> None:
        """Forget all versions of a package."""
        self._records = [record for record in self._records if not record.startswith(f"Package: {name}\n")]
        self._write()

    def _write(self) -> None:
        packages = "".join(self._records).encode()
        (self.directory / "Packages").write_bytes(packages)
        digest = hashlib.sha256(packages).hexdigest()
        self.directory.joinpath("Release").write_text(
            f"Origin: tests\nSuite: stable\nArchitectures: amd64 arm64\nDate: {email.utils.formatdate(usegmt=True)}\n"
            f"SHA256:\n {digest} {len(packages)} Packages\n"
        )


def _member(name: str, content: bytes) -> bytes:
    """A member of an `ar` archive."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
