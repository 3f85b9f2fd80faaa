"""The repositories that one build may read: of each what it has asked for, as it is now, and nothing else (shell).

A build reads a view: a repository without objects of its own, whose refs are those that were asked for. So no build sees
a branch as another one had it. uv and git are told by variables which URL is which directory. git compares only how URLs
begin; what goes on behind one leads to a path where nothing is, as long as it is a path: of a URL it would read escapes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Before the names of views. Those that are left behind by a process that was killed go with the caches.
VIEW = ".view-"
#: No setting of anybody, and no host: whatever a repository or a package says.
_CLOSED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    # uv would ask an API of GitHub, and another host, for what git says as well.
    "UV_NO_GITHUB_FAST_PATH": "1",
}
_CONFIG = (
    ("protocol.allow", "never"),
    # Not for submodules: git tells those apart.
    ("protocol.file.allow", "user"),
    ("core.hooksPath", os.devnull),
)
_NO_HEAD = "ref: refs/heads/none\n"


class Brought:
    """The views of a build, below `directory`."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._refs: dict[str, dict[str, str]] = {}
        self.paths: dict[str, Path] = {}
        #: Each URL with what was asked for of it.
        self.asked: set[tuple[str, str | None]] = set()

    def variables(self) -> dict[str, str]:
        """What uv and the git processes it starts are told; without any, that there are none."""
        settings = [*_CONFIG, *((f"url.{path}.insteadOf", url) for url, path in self.paths.items())]
        told = {"GIT_CONFIG_COUNT": str(len(settings))}
        for number, (key, value) in enumerate(settings):
            told |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return told | _CLOSED

    def take(self, url: str, ref: str | None, commit: str, whole: Path) -> None:
        """Let the build read `ref` of a URL, which is `commit` in the repository `whole`."""
        assert self._directory is not None
        view = self._directory / whole.name
        ref = None if ref == "HEAD" else ref
        if url not in self.paths:
            _make(view, whole, commit)
            self._refs[url] = {}
        refs = self._refs[url] | _tags(whole)
        refs[f"refs/commits/{commit}"] = commit
        if ref is None:
            (view / "HEAD").write_text(f"{commit}\n")
        elif ref != commit:
            refs[ref if ref.startswith("refs/") else f"refs/heads/{ref}"] = commit
        if (whole / "shallow").exists():
            shutil.copyfile(whole / "shallow", view / "shallow")
        lines = (f"{refs[name]} {name}\n" for name in sorted(refs))
        (view / "packed-refs").write_text("# pack-refs with: sorted \n" + "".join(lines))
        self._refs[url] = refs
        self.paths[url] = view
        self.asked.add((url, ref))


@contextmanager
def views(directory: Path) -> Iterator[Brought]:
    """Views for one build, below `directory`, which are gone when it is over."""
    directory.mkdir(mode=0o700, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=VIEW, dir=directory))
    try:
        yield Brought(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _make(view: Path, whole: Path, commit: str) -> None:
    for part in ("objects/info", "objects/pack", "refs"):
        (view / part).mkdir(parents=True)
    (view / "objects/info/alternates").write_text(f"{whole / 'objects'}\n")
    (view / "HEAD").write_text(_NO_HEAD)
    kind = "\trepositoryformatversion = 0\n"
    if len(commit) == 64:
        kind = "\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n[core]\n"
    told = f"[core]\n{kind}\tbare = true\n[uploadpack]\n\tallowAnySHA1InWant = true\n"
    (view / "config").write_text(told)


def _tags(whole: Path) -> dict[str, str]:
    """Those with a text of their own: tools make versions of them."""
    return {
        str(path.relative_to(whole)): path.read_text().strip()
        for path in (whole / "refs/tags").rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }
