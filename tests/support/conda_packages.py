"""A conda channel of tiny packages on this disk, made by hand."""

import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

SUBDIRS = ("linux-64", "noarch")
#: What a package writes where the path of its environment belongs.
PLACEHOLDER = "/opt/placeholder_placeholder_placeholder_placeholder"
VERSION = ".".join(map(str, sys.version_info[:3]))
_REAL = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


class Channel:
    """Packages and their `repodata.json`. `url` is for `SPELL_CONDA_CHANNELS`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for subdir in SUBDIRS:
            (directory / subdir).mkdir(parents=True)
            self._write(subdir, {})

    @property
    def url(self) -> str:
        return self.directory.as_uri()

    def add_python(self, version: str = VERSION, real: str = _REAL) -> None:
        """Add a Python of this version; it is the one of this machine or of an image, whatever its version."""
        minor = VERSION if real == _REAL else version
        files = {
            "pyvenv.cfg": f"home = {os.path.dirname(real)}\n",  # noqa: PTH120
            f"lib/python{minor.rpartition('.')[0]}/site-packages/README.txt": "nothing\n",
        }
        links = {
            "bin/python3": real,
            "bin/python": "python3",
            f"bin/python{version.rpartition('.')[0]}": "python3",
        }
        self._publish("python", version, files, subdir="linux-64", links=links)

    def add(self, name: str, version: str, *, depends: tuple[str, ...] = (), conda: bool = False) -> None:
        """Add a module that holds `VERSION` and `DEPENDS`, and a program of its name."""
        info = f"site-packages/{name}-{version}.dist-info"
        files = {
            f"site-packages/{name}.py": f"VERSION = {version!r}\nDEPENDS = {depends!r}\ndef main():\n    print({name!r}, VERSION)\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/RECORD": f"{name}.py,,\n",
            f"{info}/INSTALLER": "conda\n",
        }
        more = {"noarch": "python", "entry_points": [f"{name} = {name}:main"]}
        self._publish(name, version, files, depends=("python", *depends), conda=conda, **more)

    def add_data(self, name: str, version: str, *, depends: tuple[str, ...] = ()) -> None:
        """Add a program for the shell and a file that both know where their environment is."""
        files = {
            f"share/{name}.txt": f"{PLACEHOLDER}/share\n",
            f"bin/{name}": f"#!/bin/sh\ncat {PLACEHOLDER}/share/{name}.txt\n",
        }
        self._publish(name, version, files, depends=depends, noarch="generic")

    def _publish(
        self,
        name: str,
        version: str,
        files: dict[str, str],
        *,
        subdir: str = "noarch",
        depends: tuple[str, ...] = (),
        links: dict[str, str] | None = None,
        noarch: str | None = None,
        entry_points: list[str] | None = None,
        conda: bool = False,
    ) -> None:
        links = links or {}
        index: dict[str, Any] = {"name": name, "version": version, "build": "0", "build_number": 0}
        index |= {"depends": list(depends), "subdir": subdir, "timestamp": 1_700_000_000_000}
        index |= {"noarch": noarch} if noarch else {}
        about = {
            "info/index.json": json.dumps(index),
            "info/paths.json": json.dumps({"paths": _paths(files, links), "paths_version": 1}),
            "info/files": "".join(f"{path}\n" for path in [*files, *links]),
        }
        if noarch == "python":
            link = {
                "noarch": {"type": "python", "entry_points": entry_points or []},
                "package_metadata_version": 1,
            }
            about["info/link.json"] = json.dumps(link)
        stem = f"{name}-{version}-0"
        if conda:
            raw, file = _conda(stem, about, files, links), f"{stem}.conda"
        else:
            raw, file = _tar({**about, **files}, links, "w:bz2"), f"{stem}.tar.bz2"
        (self.directory / subdir / file).write_bytes(raw)
        packages = self._read(subdir)
        packages[file] = index | {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
        self._write(subdir, packages)

    def _read(self, subdir: str) -> dict[str, Any]:
        data = json.loads((self.directory / subdir / "repodata.json").read_text())
        return {**data["packages"], **data["packages.conda"]}

    def _write(self, subdir: str, packages: dict[str, Any]) -> None:
        data = {
            "info": {"subdir": subdir},
            "packages": {file: each for file, each in packages.items() if not file.endswith(".conda")},
            "packages.conda": {file: each for file, each in packages.items() if file.endswith(".conda")},
            "repodata_version": 1,
        }
        (self.directory / subdir / "repodata.json").write_text(json.dumps(data))


def _paths(files: dict[str, str], links: dict[str, str]) -> list[dict[str, Any]]:
    paths: list[dict[str, Any]] = []
    for path, content in files.items():
        raw = content.encode()
        entry = {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(raw).hexdigest()}
        patched = {"prefix_placeholder": PLACEHOLDER, "file_mode": "text"} if PLACEHOLDER in content else {}
        paths.append({**entry, "size_in_bytes": len(raw), **patched})
    empty = hashlib.sha256(b"").hexdigest()
    return paths + [
        {"_path": path, "path_type": "softlink", "sha256": empty, "size_in_bytes": 0} for path in links
    ]


def _tar(files: dict[str, str], links: dict[str, str], mode: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(content.encode()), 1_700_000_000
            member.mode = 0o755 if path.startswith("bin/") else 0o644
            archive.addfile(member, io.BytesIO(content.encode()))
        for path, target in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return out.getvalue()


def _conda(stem: str, about: dict[str, str], files: dict[str, str], links: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
        archive.writestr(f"pkg-{stem}.tar.zst", _zstd(_tar(files, links, "w")))
        archive.writestr(f"info-{stem}.tar.zst", _zstd(_tar(about, {}, "w")))
    return out.getvalue()


def _zstd(raw: bytes) -> bytes:
    """A zstd frame that compresses nothing: Python has no zstd of its own yet."""
    assert 0 < len(raw) < 128 * 1024, "one block"
    header = b"\x28\xb5\x2f\xfd" + b"\xe0" + len(raw).to_bytes(8, "little")
    return header + (len(raw) << 3 | 1).to_bytes(3, "little") + raw
