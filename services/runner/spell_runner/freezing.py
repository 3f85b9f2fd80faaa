"""Freezes what a running command has made: a tree of hard links, made without following anything (shell).

A command that runs may swap files, links and directories under our eyes. What is frozen stands where it cannot reach,
so whoever reads it may go by path: names and kinds stay as they are. Bytes may still change, if they are written in place.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import orjson

from spell_proto.mount_paths import SPELL
from spell_runner import beneath, loops
from spell_runner.directory import BASELINE, Directory
from spell_runner.errors import SHORT, problem
from spell_runner.outputs import not_saved, too_long
from spell_runner.shim import linux
from spell_runner.shim.launch import LAUNCH, SNAPSHOT, UPPER, WORKSPACE, Launch
from spell_runner.workspace import Abort, read_baseline, remove, signature

#: By these an overlay tells that a directory hides what is below it.
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")

#: Whether a file, of which path and status are given, need not be looked at.
Skip = Callable[[str, os.stat_result], bool]


def freeze(directory: Directory, abort: Abort, notes: list[str] | None = None) -> Directory:
    """The directory of an attempt as it is now, with all that engines look at to find what its command has made.
    To be thawed, whatever became of this. `notes` get a line for everything that is left out.
    """
    notes = [] if notes is None else notes
    # A runner that was killed may have left one.
    thaw(directory)
    # On a disk that the command has filled there is room for us.
    with linux.in_group(loops.KEEPERS) if directory.has_disk else contextlib.nullcontext():
        return _frozen(directory, abort, notes)


def _frozen(directory: Directory, abort: Abort, notes: list[str]) -> Directory:
    target = Path(directory / SNAPSHOT)
    target.mkdir(mode=0o700)
    told = Launch.decode(Path(directory / LAUNCH).read_bytes())
    (target / LAUNCH).write_bytes(told.encode())
    if told.overlay:
        notes += link_tree(directory / UPPER, target / UPPER, abort)
        notes += _link_layers(told, directory, target, abort)
    else:
        notes += _copy_of_code(directory, target, abort)
    return Directory(target)


def thaw(directory: Directory) -> None:
    """Let go of what was frozen."""
    remove(Path(directory / SNAPSHOT))


def _link_layers(told: Launch, directory: Directory, target: Path, abort: Abort) -> list[str]:
    """What was written where resources are mounted in the workspace. Elsewhere it is scratch, and not looked at."""
    notes = []
    for layer in told.layers:
        upper = target / layer.upper
        upper.parent.mkdir(parents=True, exist_ok=True)
        if layer.at.startswith(f"{SPELL}/"):
            at = layer.at.removeprefix(f"{SPELL}/")
            notes += link_tree(directory / layer.upper, upper, abort, at=at)
        else:
            upper.mkdir()
    if told.files:
        # Nobody writes to these.
        files = target / told.files
        files.parent.mkdir(parents=True, exist_ok=True)
        files.symlink_to(Path(directory / told.files).absolute())
    return notes


def _copy_of_code(directory: Directory, target: Path, abort: Abort) -> list[str]:
    """A workspace that holds the code as well: without what is as it was at the start, and its baseline without that."""
    baseline = read_baseline(Path(directory / BASELINE).read_bytes())
    changed = dict(baseline)

    def untouched(path: str, status: os.stat_result) -> bool:
        if baseline.get(path) != signature(status):
            return False
        del changed[path]
        return True

    notes = link_tree(directory / WORKSPACE, target / WORKSPACE, abort, untouched)
    written = {os.fsencode(path).hex(): value for path, value in changed.items()}
    (target / BASELINE).write_bytes(orjson.dumps(written))
    return notes


def link_tree(source: str, target: Path, abort: Abort, skip: Skip | None = None, at: str = "") -> list[str]:
    """Make the directory `target`, with hard links to all files and links below `source`, bar what is called `.git`. Lines
    say what else is left out; `source` is the part `at` of the workspace.

    What vanishes meanwhile is not there; what comes meanwhile may be.
    """
    notes: list[str] = []
    above = f"{at}/" if at else ""

    def leave(path: str, why: str) -> None:
        notes.append(not_saved(f"{above}{path}", why))

    def wanted(path: str, status: os.stat_result | None) -> bool:
        abort.check()
        if status is not None:
            return skip is None or not skip(path, status)
        why = too_long(f"{above}{path}")
        if why is not None:
            leave(path, why)
        return why is None

    target.mkdir(mode=0o700)
    with (
        beneath.opened(os.open(source, beneath.DIRECTORY)) as root,
        beneath.opened(os.open(target, beneath.DIRECTORY)) as copy,
    ):
        pending = [""]
        while pending:
            abort.check()
            path = pending.pop()
            try:
                with beneath.lent(root, path) as directory:
                    if path:
                        _copy_opacity(directory, copy, path)
                    pending += _link_entries(directory, copy, path, wanted, leave)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno in SHORT or not path:
                    raise
                leave(path, f"it cannot be read: {problem(error)}")
    return notes


def _link_entries(
    directory: int,
    copy: int,
    above: str,
    wanted: Callable[[str, os.stat_result | None], bool],
    leave: Callable[[str, str], None],
) -> list[str]:
    """Link the files of one directory; which directories there are in it."""
    found = []
    for name in sorted(os.listdir(directory)):
        path = f"{above}/{name}" if above else name
        if name == ".git" or not wanted(path, None):
            continue
        # It may be gone between two calls, or be something else by then.
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(path, 0o700, dir_fd=copy)
                found.append(path)
            elif wanted(path, status):
                _link(directory, name, copy, path)
        except (FileNotFoundError, FileExistsError):
            continue
        except OSError as error:
            if error.errno in SHORT:
                raise
            leave(path, f"it cannot be kept for a snapshot: {problem(error)}")
    return found


def _link(directory: int, name: str, copy: int, path: str) -> None:
    try:
        os.link(name, path, src_dir_fd=directory, dst_dir_fd=copy, follow_symlinks=False)
    except PermissionError:
        # Of a directory, which it may be by now, there are no hard links. What it is now it stays in our hands.
        with beneath.opened(os.open(name, beneath.HELD, dir_fd=directory)) as held:
            if not stat.S_ISDIR(os.fstat(held).st_mode):
                os.link(f"/proc/self/fd/{held}", path, dst_dir_fd=copy, follow_symlinks=True)


def _copy_opacity(directory: int, copy: int, path: str) -> None:
    for name in _OPAQUE:
        with contextlib.suppress(OSError):
            value = os.getxattr(directory, name)
            with beneath.opened(os.open(path, beneath.DIRECTORY, dir_fd=copy)) as there:
                os.setxattr(there, name, value)
