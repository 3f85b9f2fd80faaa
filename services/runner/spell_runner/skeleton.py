"""The repository that a run finds one level above its code: read-only, and its work tree is the run's (shell).

    HEAD          the commit, detached; a hard link to where the store says that it has it
    config        where the work tree is, and that files are told by size and time only
    index         of the tree that is laid out; a hard link to the one that was made with it
    packed-refs   the annotated tags on the way
    shallow       where the history is cut off, if it is
    objects       empty: those of the store are bound over it, or named in `objects/info/alternates`
    refs          empty

Both links say what the repository was made for: one whose store or tree was made anew since is made anew too.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from spell_runner import layout
from spell_runner.stores import Store, formatted

_CONFIG = """[core]
	repositoryformatversion = {{}}
	bare = false
	worktree = "../{root}"
	filemode = true
	symlinks = true
	logallrefupdates = false
	checkstat = minimal
	trustctime = false
	splitindex = false
	untrackedcache = false
	fsmonitor = false
[gc]
	auto = 0
[maintenance]
	auto = false
{{}}"""
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\b": "\\b"}
_TAG = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_COPIED = ("HEAD", "config", "index", "packed-refs", "shallow")


def prefix(store: str) -> str:
    """How the names begin of those that belong to a store."""
    return f"git-{store}-"


def name(store: str, commit: str) -> str:
    """What the repository of a commit is called among those of its tree."""
    return f"{prefix(store)}{commit}"


def fits(skeleton: str, store: Store, commit: str) -> bool:
    """Whether it is there, and was made for what the store holds now."""
    try:
        head, ref = os.stat(f"{skeleton}/HEAD"), os.stat(store.ref(commit))  # noqa: PTH116 -- on the way to a start
    except FileNotFoundError:
        return False
    return os.path.samestat(head, ref)


def make(place: Path, skeleton: Path, store: Store, commit: str, root_directory: str) -> None:
    """Put it together, all at once. What was there before did not fit any more; a run that began with it keeps it."""
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=place))
    try:
        _fill(new, place, store, commit, root_directory)
        if skeleton.exists():
            # The tree goes when no run stands on it any more, and this with it.
            skeleton.rename(Path(tempfile.mkdtemp(prefix=".old-", dir=place)) / skeleton.name)
        new.rename(skeleton)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _fill(new: Path, place: Path, store: Store, commit: str, root_directory: str) -> None:
    new.chmod(0o755)
    os.link(store.ref(commit), new / "HEAD")
    os.link(place / layout.INDEX, new / "index")
    config = _CONFIG.format(root=_escaped(root_directory).replace("{", "{{").replace("}", "}}"))
    (new / "config").write_text(formatted(config, commit))
    tags = sorted(store.tags().items())
    (new / "packed-refs").write_text("".join(_tag_line(*tag) for tag in tags))
    shallow = store.shallow()
    if shallow:
        (new / "shallow").write_text("".join(f"{cut}\n" for cut in sorted(shallow)))
    (new / "objects").mkdir()
    (new / "refs").mkdir()


def copy(skeleton: Path, objects: Path, target: Path) -> None:
    """A copy that reads the objects of the store, for a run over which nothing can be bound."""
    target.mkdir(exist_ok=True)
    for part in ("objects", "objects/info", "objects/pack", "refs"):
        (target / part).mkdir(exist_ok=True)
    for part in _COPIED:
        if (skeleton / part).exists():
            shutil.copyfile(skeleton / part, target / part)
            (target / part).chmod(0o444)
    alternates = target / "objects/info/alternates"
    alternates.write_bytes(os.fsencode(objects) + b"\n")
    alternates.chmod(0o444)
    for part in ("objects/info", "objects/pack", "objects", "refs", "."):
        (target / part).chmod(0o555)


def _escaped(root_directory: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in root_directory)


def _tag_line(tag: str, target: str) -> str:
    ref = f"refs/tags/{tag.removeprefix('refs/tags/')}"
    return f"{target} {ref}\n" if _TAG.fullmatch(ref) else ""
