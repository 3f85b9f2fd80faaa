"""Which files count as made by a run: by a baseline here, by a real overlay in the integration tests."""

import os
import socket
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from spell_runner import outputs
from spell_runner.lower import Lower
from spell_runner.outputs import Changes, Found, in_copy, in_overlay, resource_paths, said_of_deleted
from spell_runner.workspace import Abort, AbortedError, copy_tree, read_baseline, remove


@pytest.fixture
def place(tmp_path):
    lower, workspace = tmp_path / "lower", tmp_path / "workspace"
    repository = lower / "repo"
    (repository / "pkg").mkdir(parents=True)
    (repository / "same.txt").write_text("same")
    (repository / "edited.txt").write_text("before")
    (repository / "pkg" / "gone.py").write_text("gone")
    (repository / "link").symlink_to("same.txt")
    workspace.mkdir()
    baseline = read_baseline(copy_tree(lower, workspace, Abort()))

    def changes():
        return in_copy(workspace, Lower.of(lower), baseline, Abort())

    return workspace, changes


def paths(changes):
    return [found.path for found in changes.found]


def test_an_untouched_workspace_has_no_changes(place):
    _, changes = place

    assert changes() == Changes()


def test_new_changed_and_deleted_files_are_found(place):
    workspace, changes = place
    (workspace / "repo/edited.txt").write_text("after!")
    (workspace / "repo/new").mkdir()
    (workspace / "repo/new/file").write_text("x")
    (workspace / "out.bin").write_bytes(b"abc")
    (workspace / "repo/pkg/gone.py").unlink()

    found = changes()

    assert paths(found) == ["out.bin", "repo/edited.txt", "repo/new/file"]
    assert found.deleted == ["repo/pkg/gone.py"]


def test_equal_content_does_not_count_whatever_was_done_to_the_file(place):
    workspace, changes = place
    same = workspace / "repo/same.txt"
    same.write_text("different")
    same.write_text("same")
    os.utime(workspace / "repo/edited.txt", (1, 1))
    (workspace / "repo/link").unlink()
    (workspace / "repo/link").symlink_to("same.txt")

    assert changes() == Changes()


def test_a_change_that_keeps_size_and_time_is_found(place):
    workspace, changes = place
    file = workspace / "repo/edited.txt"
    before = file.stat()
    file.write_text("BEFORE")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert paths(changes()) == ["repo/edited.txt"]


def test_links_are_kept_as_links_and_never_followed(place):
    workspace, changes = place
    (workspace / "secret").symlink_to("/etc/passwd")
    (workspace / "dir").symlink_to("/etc")
    (workspace / "repo/link").unlink()
    (workspace / "repo/link").symlink_to("edited.txt")

    found = changes()

    assert [(one.path, one.link) for one in found.found] == [
        ("dir", "/etc"),
        ("repo/link", "edited.txt"),
        ("secret", "/etc/passwd"),
    ]


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        # Its whole path may be too long for an address.
        where = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{where}/{path.name}")
        os.close(where)


def a_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("make", [os.mkfifo, a_socket, a_device])
def test_what_is_no_file_is_left_out_with_a_note(place, make):
    workspace, changes = place
    make(workspace / "odd")

    found = changes()

    assert found.found == []
    assert found.notes == ["Not saved: '/spell/odd' (neither a file nor a link)"]


def test_git_directories_are_never_saved(place):
    workspace, changes = place
    for place_of_git in (".git", "repo/.git", "repo/deep/.git"):
        (workspace / place_of_git).mkdir(parents=True)
        (workspace / place_of_git / "config").write_text("x")

    assert changes() == Changes()


def test_names_that_json_cannot_carry_are_refused_by_name(place):
    workspace, changes = place
    Path(os.fsdecode(os.fsencode(workspace) + b"/bad-\xff")).write_text("x")
    (workspace / "two\nlines").mkdir()
    (workspace / "two\nlines" / "inside").write_text("x")
    (workspace / "gut-ü.txt").write_text("x")

    found = changes()

    assert paths(found) == ["gut-ü.txt"]
    assert found.notes == [
        "Not saved: '/spell/bad-\\xff' (its name is not UTF-8)",
        "Not saved: '/spell/two\\x0alines' (its name holds control characters)",
    ]


def test_paths_are_relative_to_the_repository_and_others_to_the_workspace():
    changes = Changes([found("repo/a/b"), found("results/x")], ["repo/gone"])

    placed, deleted = resource_paths(changes, "repo")

    assert set(placed) == {"a/b", "results/x"}
    assert deleted == ["gone"]


def test_what_was_deleted_of_the_code_is_told():
    def said(*deleted):
        return said_of_deleted(Changes(deleted=list(deleted)), "repo")

    assert said("repo/a") == ["1 file was deleted: '/spell/repo/a'"]
    assert said("repo/a", "repo/b\n", "repo/c", "repo/d", "elsewhere") == [
        "4 files were deleted: '/spell/repo/a', '/spell/repo/b\\x0a', '/spell/repo/c' and 1 more"
    ]
    assert said("elsewhere") == []
    assert said_of_deleted(Changes(deleted=["repo/a"]), None) == []


def test_without_code_paths_are_relative_to_the_workspace():
    placed, deleted = resource_paths(Changes([found("repo/a")]), None)

    assert set(placed) == {"repo/a"}
    assert deleted == []


def test_two_files_that_would_share_a_path_are_both_kept():
    changes = Changes(
        [found("repo/x"), found("x"), found("repo/d/file"), found("d"), found("repo/f"), found("f/in")]
    )

    placed, _ = resource_paths(changes, "repo")

    assert {path: one.path for path, one in placed.items()} == {
        "x": "repo/x",
        "spell/x": "x",
        "d/file": "repo/d/file",
        "spell/d": "d",
        "f": "repo/f",
        "spell/f/in": "f/in",
    }


def test_many_files_outside_the_repository_find_their_places_at_once():
    """Looking at every pair of them would take minutes."""
    changes = Changes(
        [found(f"out/{number % 100}/{number}") for number in range(30_000)] + [found("repo/out")]
    )

    placed, _ = resource_paths(changes, "repo")

    assert len(placed) == 30_001
    assert "spell/out/7/7" in placed


def found(path):
    return Found(path, "/nowhere", 0o644, 1, 0)


def test_a_thread_gives_up_when_told_to(tmp_path):
    (tmp_path / "file").write_text("x")
    abort = Abort()
    threading.Thread(target=abort.set).start()

    def scan_for_ever():
        while True:
            in_copy(tmp_path, Lower.of(tmp_path / "lower"), {}, abort)

    with pytest.raises(AbortedError):
        scan_for_ever()


def test_a_directory_is_removed_whatever_rights_its_parts_have(tmp_path):
    top = tmp_path / "top"
    (top / "work" / "work").mkdir(parents=True)
    (top / "work" / "work" / "file").write_text("x")
    (top / "work" / "work").chmod(0)
    (top / "work").chmod(0)

    remove(top)

    assert not top.exists()


def test_a_directory_is_removed_however_deep_it_is(tmp_path):
    """Deeper than Python calls itself, and than a path can name."""
    top, here = tmp_path / "top", os.open(tmp_path, os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for name in ["top", *(["d" * 40, ".0", ".1"] * 400)]:
            Path(name).mkdir()
            os.chdir(name)
            Path("file").write_text("x")
            Path("link").symlink_to("/etc")
    finally:
        os.fchdir(here)
        os.close(here)

    remove(top)

    assert not top.exists()
    assert Path("/etc/passwd").exists()


def test_an_opaque_directory_hides_what_is_below_it(tmp_path):
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for path in (lower / "d/old", lower / "d/kept", upper / "d/kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept")
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")

    changes = outputs.in_overlay(upper, Lower.of(lower), Abort())

    assert paths(changes) == []
    assert changes.deleted == ["d/old"]


@pytest.fixture
def as_nobody():
    """A directory of a user whom file rights bind: the superuser could read everything."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="sp"))
    user = os.geteuid()
    if user == 0:
        os.chown(directory, 12345, -1)
        os.seteuid(12345)
    try:
        yield directory
    finally:
        os.seteuid(user)
        remove(directory)


def test_what_a_run_took_its_own_rights_away_from_is_found_all_the_same(as_nobody):
    lower, workspace = as_nobody / "lower", as_nobody / "workspace"
    lower.mkdir()
    workspace.mkdir()
    for name in ("kept", "edited"):
        (lower / name).write_text("before")
    baseline = read_baseline(copy_tree(lower, workspace, Abort()))
    (workspace / "edited").write_text("after!")
    (workspace / "unsearchable").mkdir()
    (workspace / "unsearchable/file").write_text("x")
    for name, mode in (("kept", 0), ("edited", 0), ("unsearchable", 0o600)):
        (workspace / name).chmod(mode)
    workspace.chmod(0)

    found = in_copy(workspace, Lower.of(lower), baseline, Abort())

    assert paths(found) == ["edited", "unsearchable/file"]
    assert found.deleted == []


def test_a_copy_goes_on_where_the_file_systems_cannot_share(tmp_path):
    """The kernel refuses to copy between two kinds of file systems by itself."""
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="sp"))
    try:
        content = os.urandom(3 << 20)
        (elsewhere / "file").write_bytes(content)
        (elsewhere / "empty").write_bytes(b"")

        copy_tree(elsewhere, tmp_path, Abort())

        assert (tmp_path / "file").read_bytes() == content
        assert (tmp_path / "empty").read_bytes() == b""
    finally:
        remove(elsewhere)


@pytest.fixture
def led_out(tmp_path):
    """Code with a link to a directory outside, of which a run has made a directory of its own."""
    outside, lower, upper = tmp_path / "outside", tmp_path / "lower", tmp_path / "upper"
    (outside / "vault/deep").mkdir(parents=True)
    (outside / "vault/deep/key").write_text("secret")
    (outside / "vault/closed").mkdir(mode=0o100)
    (outside / "guess").write_text("secret")
    (outside / "link").symlink_to("guess")
    (lower / "repo").mkdir(parents=True)
    (lower / "repo/e").symlink_to(outside)
    (upper / "repo/e").mkdir(parents=True)
    (upper / "repo/e/vault").write_text("1")
    (upper / "repo/e/guess").write_text("secret")
    (upper / "repo/e/link").symlink_to("guess")
    yield outside, lower, upper
    (outside / "vault/closed").chmod(0o700)


@pytest.mark.parametrize("copied", [False, True])
def test_what_a_link_of_the_code_leads_to_is_neither_compared_nor_listed_nor_touched(led_out, copied):
    outside, lower, upper = led_out

    if copied:
        found = in_copy(upper, Lower.of(lower), {"repo/e": [1, 1, 1]}, Abort())
    else:
        found = in_overlay(upper, Lower.of(lower), Abort())

    assert paths(found) == ["repo/e/guess", "repo/e/link", "repo/e/vault"]
    assert found.deleted == ["repo/e"]
    assert stat.S_IMODE((outside / "vault/closed").stat().st_mode) == 0o100


def test_a_path_is_not_looked_for_in_a_part_that_another_one_hides_there(tmp_path):
    (tmp_path / "above").mkdir()
    (tmp_path / "above/data").write_text("mounted")
    (tmp_path / "code/data").mkdir(parents=True)
    (tmp_path / "code/data/x").write_text("x")
    lower = Lower.of(tmp_path / "above", tmp_path / "code")

    assert lower.status("data/x") is None
    assert lower.files("data", Abort()) == ["data"]


def test_a_walk_of_what_was_there_at_first_can_be_given_up(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").touch()
    abort = Abort()
    abort.set()

    with pytest.raises(AbortedError):
        Lower.of(tmp_path).files("data", abort)
