"""A package index on this disk: tiny wheels made by the test, no network."""

import base64
import hashlib
import zipfile
from pathlib import Path


class Index:
    """Wheels and a simple index over them. `url` is for `UV_DEFAULT_INDEX`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "simple").mkdir(parents=True)

    @property
    def url(self) -> str:
        return (self.directory / "simple").as_uri()

    def add(
        self,
        name: str,
        version: str,
        *,
        requires: tuple[str, ...] = (),
        text: str = "",
        entry_point: bool = False,
        startup: str = "",
    ) -> None:
        """Add a package with one module that holds `VERSION` and `TEXT`, and a program of its name if asked for. `startup`
        is run whenever Python starts where it is installed.
        """
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        files = {
            f"{module}.py": f"VERSION = {version!r}\nTEXT = {text!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            + "".join(f"Requires-Dist: {requirement}\n" for requirement in requires),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        if startup:
            files[f"{module}.pth"] = f"import os; exec({startup!r})\n"
        if entry_point:
            files[f"{module}.py"] += "def main():\n    print(VERSION)\n"
            files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {module}:main\n"
        record = "".join(f"{path},{_digest(content)},{len(content)}\n" for path, content in files.items())
        self._publish(name, f"{module}-{version}-py3-none-any.whl", {**files, f"{info}/RECORD": record})

    def add_large(self, name: str, version: str, files: int) -> None:
        """Add a package with this many files of data."""
        info = f"{name}-{version}.dist-info"
        content = {f"{name}.py": f"VERSION = {version!r}\n"}
        content |= {f"{name}_data/{number}.txt": f"{number}\n" for number in range(files)}
        content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        content[f"{info}/WHEEL"] = (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in content.items())
        self._publish(name, f"{name}-{version}-py3-none-any.whl", {**content, f"{info}/RECORD": record})

    def add_broken(self, name: str, version: str, reason: str) -> None:
        """Add a package that exists as source only and fails to build with `reason`."""
        backend = (
            f"def get_requires_for_build_wheel(config_settings=None):\n    raise RuntimeError({reason!r})\n"
        )
        files = {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "broken"\nbackend-path = ["."]\n',
            "broken.py": backend + "build_wheel = get_requires_for_build_wheel\n",
        }
        self._publish(name, f"{name}-{version}.zip", {f"{name}-{version}/{k}": v for k, v in files.items()})

    def add_running(self, name: str, version: str, code: str) -> None:
        """Add a package that exists as source only, and runs code of its own while it is built."""
        files = {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "running"\nbackend-path = ["."]\n',
            "running.py": _RUNNING.format(name=name, version=version, code=code),
        }
        self._publish(name, f"{name}-{version}.zip", {f"{name}-{version}/{k}": v for k, v in files.items()})

    def add_from_source(self, name: str, version: str, *, gate: Path, stamped: bool = False) -> None:
        """Add a package that is built from its source, which waits until `gate`/go is there.

        Meanwhile `gate`/started has a line for each build: the ids of its process and of one that it has started.
        What is built has the time of the build in it where it is `stamped`.
        """
        gate.mkdir(exist_ok=True)
        files = {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n',
            "slow.py": _SLOW.format(name=name, version=version, gate=str(gate), stamped=stamped),
        }
        self._publish(name, f"{name}-{version}.zip", {f"{name}-{version}/{k}": v for k, v in files.items()})

    def _publish(self, name: str, file: str, files: dict[str, str]) -> None:
        folder = self.directory / "simple" / name
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / file, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        links = []
        for path in sorted(folder.iterdir()):
            if path.name != "index.html":
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                links.append(f'<a href="{path.name}#sha256={digest}">{path.name}</a>')
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{'<br>'.join(links)}</body></html>")


def alive(pid: int) -> bool:
    """Whether a process of a build runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _digest(content: str) -> str:
    raw = hashlib.sha256(content.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


_RUNNING = """
import zipfile
{code}
INFO = "{name}-{version}.dist-info"

def build_wheel(directory, config_settings=None, metadata_directory=None):
    file = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + file, "w") as wheel:
        wheel.writestr("{name}.py", "VERSION = '{version}'\\n")
        wheel.writestr(INFO + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(INFO + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(INFO + "/RECORD", "")
    return file
"""

_SLOW = """
import os, subprocess, time, zipfile
INFO = "{name}-{version}.dist-info"
FILES = {{
    INFO + "/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
    INFO + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: slow\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}}

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    os.mkdir(os.path.join(directory, INFO))
    for name, text in FILES.items():
        with open(os.path.join(directory, name), "w") as file:
            file.write(text)
    return INFO

def build_wheel(directory, config_settings=None, metadata_directory=None):
    child = subprocess.Popen(["sleep", "600"])
    with open("{gate}/started", "a") as started:
        started.write(f"{{os.getpid()}} {{child.pid}}\\n")
    while not os.path.exists("{gate}/go"):
        time.sleep(0.02)
    child.kill()
    name = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("{name}.py", "VERSION = '{version}'\\nBUILT = %r\\n" % (time.time() if {stamped} else 0))
        for path, text in FILES.items():
            wheel.writestr(path, text)
        wheel.writestr(INFO + "/RECORD", "".join(path + ",,\\n" for path in [*FILES, "{name}.py", INFO + "/RECORD"]))
    return name
"""
