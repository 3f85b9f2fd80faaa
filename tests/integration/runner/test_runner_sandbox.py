"""What a command sees and may touch in its namespaces, and that an overlay and a copy give the same outputs."""

import os
import shutil
import stat
import uuid
from pathlib import Path

import pytest

from integration.runner import shims
from spell_proto.journal import RecordKind
from spell_runner.isolation import Isolation, probe
from spell_runner.lower import Lower
from spell_runner.outputs import in_copy, in_overlay
from spell_runner.shim import launch
from spell_runner.workspace import Abort, copy_tree, read_baseline

MODES = [
    pytest.param("unshare", id="unshare"),
    pytest.param(
        "bubblewrap",
        id="bubblewrap",
        marks=pytest.mark.skipif(not shims.BWRAP, reason="bubblewrap is not installed"),
    ),
]


@pytest.fixture(params=MODES)
def ask(request, yard):
    """Run a command in a sandbox; its exit code and what it printed on stdout."""

    def run(command, *, overlay=True, **given):
        started = yard.start(command, request.param, overlay=overlay, **given)
        ending = started.until_over().ending
        assert ending.error is None
        return ending.exit_code, started.output(RecordKind.STDOUT).decode(), started

    return run


def test_the_workspace_is_where_it_should_be_and_can_be_written_to(ask):
    code, said, started = ask("pwd; mkdir -p deep; echo x > deep/file", cwd="/spell/repo/sub")

    assert (code, said) == (0, "/spell/repo/sub\n")
    assert (started.path / launch.UPPER / "repo/sub/deep/file").read_text() == "x\n"


@pytest.mark.parametrize("mode", MODES)
def test_no_directory_is_made_on_the_machine_behind_a_link_of_the_code(yard, tmp_path, mode):
    link = yard.data / "lower/out"
    link.symlink_to(tmp_path)

    try:
        yard.start("true", mode, overlay=True, cwd="/spell/out/made").until_over()
    finally:
        link.unlink()

    assert not list(tmp_path.iterdir())


def test_a_workspace_without_overlay_is_the_runs_own_directory(ask):
    code, _, started = ask("echo x > file", overlay=False)

    assert code == 0
    assert (started.path / launch.WORKSPACE / "file").read_text() == "x\n"


def test_the_platforms_data_is_out_of_sight_bar_the_environment(ask, yard):
    (yard.data / "secret/token").write_text("s3cret")
    (yard.data / "env/bin/tool").write_text("#!/bin/sh\necho tool\n")
    (yard.data / "env/bin/tool").chmod(0o755)

    code, said, _ = ask(f"ls {yard.data}; tool; cat {yard.data}/secret/token")

    assert code == 1
    assert said.splitlines()[:2] == ["env", "tool"]
    assert "s3cret" not in said


def test_the_environment_and_the_root_are_read_only(ask, yard):
    code, said, _ = ask(
        f"touch {yard.data}/env/x && echo wrote; touch {yard.data}/x && echo wrote; touch /x && echo wrote; true"
    )

    assert code == 0
    assert "wrote" not in said
    assert not (yard.data / "env/x").exists()


def test_a_directory_is_seen_where_the_host_has_none_and_the_host_gets_none(ask, yard):
    tool = yard.data / "copy/bin/tool"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text("#!/bin/sh\necho tool\n")
    tool.chmod(0o755)
    base = yard.data.parent / f"sp-{uuid.uuid4().hex}"
    (base / "there/deep").mkdir(parents=True)
    (base / "there/link").symlink_to("deep")
    (base / "there/file").write_text("kept\n")
    places = (base / "there/a/b", yard.data / "elsewhere/b", Path(f"/{base.name}/b"), base / "there/deep")
    command = "; ".join(
        [
            *(f"{place}/bin/tool; touch {place}/bin/x 2>/dev/null && echo wrote" for place in places),
            f"cat {base}/there/file; readlink {base}/there/link; echo new > {base}/there/file",
        ]
    )

    try:
        code, said, _ = ask(command, bound=tuple((str(yard.data / "copy"), str(at)) for at in places))

        assert (code, said.splitlines()) == (0, ["tool"] * 4 + ["kept", "deep"])
        assert sorted(path.name for path in (base / "there").iterdir()) == ["deep", "file", "link"]
        assert not any((base / "there/deep").iterdir())
        assert (base / "there/file").read_text() == "new\n"
        assert not Path(f"/{base.name}").exists()
    finally:
        shutil.rmtree(base)


def test_what_is_hidden_cannot_be_uncovered(ask, yard):
    (yard.data / "secret/token").write_text("s3cret")
    command = (
        f"umount {yard.data}; umount -l {yard.data}; mount -t tmpfs none /mnt; "
        f"unshare -Urm sh -c 'umount -l {yard.data}; cat {yard.data}/secret/token'; "
        f"cat {yard.data}/secret/token /proc/1/root{yard.data}/secret/token; "
        "grep CapEff /proc/self/status"
    )
    _, said, started = ask(command)

    assert b"s3cret" not in started.output()
    assert said.splitlines()[-1].split() == ["CapEff:", "0000000000000000"]


def test_temporary_files_are_the_runs_own(ask):
    name = f"spell-{uuid.uuid4().hex}"
    code, said, _ = ask(f"ls -A /tmp; echo x > /tmp/{name}; cat /tmp/{name}")

    assert (code, said) == (0, "x\n")
    assert not Path(f"/tmp/{name}").exists()


def test_only_its_own_processes_are_visible(ask):
    code, said, _ = ask("ls -d /proc/[0-9]* | wc -l; kill -9 1; echo alive")

    assert code == 0
    assert int(said.split()[0]) < 8
    assert "alive" in said


def test_the_run_is_the_same_user_and_sees_the_machine(ask):
    code, said, _ = ask(
        f"id -u; cat /etc/hostname; test -e /dev/null && test -d /sys && test -x {shutil.which('env')}"
    )

    assert code == 0
    assert said.splitlines()[0] == str(os.getuid())


CHANGES = """
cd repo
echo changed > edited.txt
echo same > touched.txt
rm removed.txt
rm -r dir
mkdir dir && echo new > dir/fresh
rm kind && mkdir kind && echo in > kind/inside
rm -r was_dir && echo file > was_dir
mv moved.txt renamed.txt
mv tree other
ln -s /etc/passwd leak
rm link && ln -s edited.txt link
mkdir -p .git/objects && echo git > .git/objects/x
mkdir ../results && head -c 3000000 /dev/zero > ../results/big
mkfifo pipe
chmod 000 edited.txt
chmod 755 script.sh
mkdir locked && echo x > locked/in && chmod 000 locked
"""


def a_tree(root):
    files = {
        "edited.txt": "before\n",
        "touched.txt": "same\n",
        "removed.txt": "x",
        "dir/one": "1",
        "dir/two": "2",
        "kind": "a file",
        "was_dir/in": "x",
        "moved.txt": "moved",
        "tree/deep/leaf": "leaf",
        "script.sh": "#!/bin/sh\n",
        "untouched": "u",
    }
    for name, text in files.items():
        path = root / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "repo/link").symlink_to("touched.txt")


def described(changes):
    return (
        [(one.path, one.size, one.link) for one in changes.found],
        changes.deleted,
        sorted(changes.notes),
    )


def test_an_overlay_and_a_copy_give_the_same_outputs(yard, tmp_path):
    lower = yard.data / f"lower-{uuid.uuid4().hex[:8]}"
    lower.mkdir()
    a_tree(lower)

    overlaid = yard.start(CHANGES, "unshare", overlay=True, lower=str(lower))
    plain = yard.launch(CHANGES)
    workspace = plain.path / launch.WORKSPACE
    baseline = read_baseline(copy_tree(lower, workspace, Abort()))
    yard.ask(plain)
    codes = [one.until_over().ending.exit_code for one in (overlaid, plain)]
    by_overlay = in_overlay(overlaid.path / launch.UPPER, Lower.of(lower), Abort())
    by_copy = in_copy(workspace, Lower.of(lower), baseline, Abort())

    assert codes == [0, 0], (overlaid.output(), plain.output())
    assert described(by_overlay) == described(by_copy)
    assert [one.path for one in by_copy.found] == [
        "repo/dir/fresh",
        "repo/edited.txt",
        "repo/kind/inside",
        "repo/leak",
        "repo/link",
        "repo/locked/in",
        "repo/other/deep/leaf",
        "repo/renamed.txt",
        "repo/was_dir",
        "results/big",
    ]
    assert by_copy.deleted == [
        "repo/dir/one",
        "repo/dir/two",
        "repo/kind",
        "repo/moved.txt",
        "repo/removed.txt",
        "repo/tree/deep/leaf",
        "repo/was_dir/in",
    ]
    assert (lower / "repo/edited.txt").read_text() == "before\n"
    assert stat.S_IMODE((lower / "repo/script.sh").stat().st_mode) == 0o644


async def test_the_probe_finds_what_works_and_says_so(yard):
    shims.need("unshare")
    found = await probe("auto", yard.data, (str(yard.data),), yard.data / "root", yard.data / "lower")

    expected = "bubblewrap" if shims.BWRAP else "unshare"
    assert found == Isolation(expected, overlay=True, bubblewrap=shims.BWRAP)


async def test_what_was_asked_for_is_taken(yard):
    shims.need("unshare")
    for name in ("unshare", "none"):
        found = await probe(name, yard.data, (str(yard.data),), yard.data / "root", yard.data / "lower")

        assert found.name == name


async def test_a_lower_directory_that_changes_owner_does_not_matter(yard):
    """Files of other users are readable as far as everybody may read them."""
    shims.need("unshare")
    started = yard.start(
        "cat repo/f; echo more >> repo/f; echo $?", "unshare", overlay=True, lower=str(_foreign(yard))
    )
    started.until_over()

    assert started.output(RecordKind.STDOUT).startswith(b"foreign\n")


def _foreign(yard):
    lower = yard.data / f"foreign-{uuid.uuid4().hex[:8]}"
    (lower / "repo").mkdir(parents=True)
    (lower / "repo/f").write_text("foreign\n")
    if os.getuid() == 0:
        os.chown(lower / "repo/f", 12345, 12345)
    return lower
