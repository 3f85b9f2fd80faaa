"""Packages in git repositories, which need nothing but Python to be built."""

import os
import subprocess
from pathlib import Path

_BACKEND = """
import os, subprocess, zipfile

NAME, VERSION, REQUIRES = {name!r}, {version!r}, {requires!r}
INFO = f"{{NAME}}-{{VERSION}}.dist-info"

def build_wheel(directory, config_settings=None, metadata_directory=None):
    told = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True).stdout.strip()
    files = {{
        f"{{NAME}}.py": f"VERSION = {{VERSION!r}}\\nTEXT = {text!r}\\nDESCRIBED = {{told!r}}\\n",
        INFO + "/METADATA": f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n"
        + "".join(f"Requires-Dist: {{each}}\\n" for each in REQUIRES),
        INFO + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    {more}
    name = f"{{NAME}}-{{VERSION}}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(INFO + "/RECORD", "".join(path + ",,\\n" for path in [*files, INFO + "/RECORD"]))
    return name
"""
_PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


class Source:
    """A work tree with one package, at its top or in `subdirectory`. `more` is what its build does besides."""

    def __init__(self, path: Path, name: str, subdirectory: str = "") -> None:
        self.path = path
        self.name = name
        self._package = path / subdirectory
        self._package.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def commit(self, version: str, *, requires: tuple[str, ...] = (), text: str = "", more: str = "") -> str:
        """Make it this version; the commit."""
        backend = _BACKEND.format(
            name=self.name, version=version, requires=requires, text=text, more=more or "pass"
        )
        (self._package / "backend.py").write_text(backend)
        (self._package / "pyproject.toml").write_text(_PROJECT)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", f"version {version}")
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *words: str) -> str:
        who = {f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        quiet = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "HOME": "/nonexistent"}
        return subprocess.run(
            ["git", "-C", str(self.path), *words],
            env={"PATH": os.environ["PATH"], **who, **quiet},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
