"""What git says inside a run: the commit, the tags, the uncommitted changes, and that nothing of ours is there."""

import hashlib
import os
from pathlib import Path

import pytest
import pytest_asyncio

from integration.runner import shims
from integration.runner.workshop import workshop
from spell_runner import workspace
from support.shelf import Shelf

pytestmark = pytest.mark.asyncio(loop_scope="module")
BUBBLEWRAP = pytest.mark.skipif(not shims.BWRAP, reason="bubblewrap is not installed")
KINDS = [
    pytest.param(("none", False), id="none"),
    pytest.param(("unshare", True), id="unshare"),
    pytest.param(("unshare", False), id="unshare, a copy"),
    pytest.param(("bubblewrap", True), id="bubblewrap", marks=BUBBLEWRAP),
    pytest.param(("bubblewrap", False), id="bubblewrap, a copy", marks=BUBBLEWRAP),
]
FILES = {
    "README": b"read me\n",
    "src/main.py": b"print('main')\n",
    "src/run.sh": ("100755", b"#!/bin/sh\n"),
    "src/link": ("120000", b"main.py"),
    "src/deep/empty": b"",
    "vendored": ("160000", b"5" * 40),
}


@pytest_asyncio.fixture(params=KINDS, scope="module", loop_scope="module")
async def shop(request):
    isolation, overlay = request.param
    async with workshop(isolation, overlay=overlay) as made:
        yield made


@pytest.fixture
def first(shop):
    """A commit with a parent and a tag."""
    older = shop.shelf.code({"README": b"read\n"})["commit"]
    shop.shelf.tag("v1.0", older)
    return shop.shelf.code(FILES, older, cwd="src")


async def test_git_knows_the_commit_its_history_and_its_tags(shop, first):
    ran = await shop.run(
        "git log -n 1 --format=%H | cat; git rev-parse HEAD; git log --oneline | wc -l; git log --stat | "
        "grep changed; git describe; git tag",
        first,
    )

    commit = first["commit"]
    assert ran.lines == [
        commit,
        commit,
        "2",
        " 6 files changed, 5 insertions(+), 1 deletion(-)",
        " 1 file changed, 1 insertion(+)",
        f"v1.0-1-g{commit[:7]}",
        "v1.0",
    ]


async def test_git_finds_the_work_tree_where_the_code_is(shop, first):
    ran = await shop.run(
        "pwd; echo $SPELL_WORKSPACE; git rev-parse --show-toplevel; git rev-parse --show-prefix", first
    )

    here, root, top, prefix = ran.lines
    assert (here, top, prefix) == (f"{root}/repo/src", f"{root}/repo", "src/")
    assert root == "/spell" or shop.engine.isolation == "none"


async def test_untouched_code_is_clean_and_known_so_without_reading_a_file(shop, first):
    ran = await shop.run("git diff-files; git status --porcelain; git diff HEAD; git diff --cached", first)

    assert (ran.exit_code, ran.output) == (0, b"")


async def test_what_the_run_changes_shows(shop, first):
    ran = await shop.run("echo more >> main.py; rm run.sh; echo x > new; git status --porcelain", first)

    assert ran.lines == [" M src/main.py", " D src/run.sh", "?? src/new"]


async def test_uncommitted_changes_show_as_staged_on_the_users_commit(shop, first):
    changed = {**FILES, "src/main.py": b"print('changed')\n", "src/added": b"new\n"}
    del changed["README"]
    snapshot = shop.shelf.code(changed, first["commit"])
    given = {**first, "tree": snapshot["tree"], "snapshot": snapshot["commit"]}

    ran = await shop.run("git status --porcelain; git rev-parse HEAD; git diff-files; python main.py", given)

    assert ran.lines == ["D  README", "A  src/added", "M  src/main.py", first["commit"], "changed"]


async def test_every_file_of_the_workspace_is_the_users(shop, first):
    ran = await shop.run("cd .. && find . -type f -print0 | sort -z | xargs -0 sha256sum; ls -A", first)

    files = {path: what if isinstance(what, bytes) else what[1] for path, what in FILES.items()}
    files = {path: content for path, content in files.items() if path not in {"src/link", "vendored"}}
    wanted = [f"{hashlib.sha256(content).hexdigest()}  ./{path}" for path, content in sorted(files.items())]
    assert ran.lines == [*wanted, "README", "src", "vendored"]


async def test_hostile_names_and_contents_arrive_byte_for_byte_and_do_nothing(shop):
    hostile = {
        "new\nline": b"1",
        "-rf": b"2",
        b"not-utf8-\xff\xfe": b"3",
        "n" * 255: b"4",
        "Twin": b"5",
        "twin": b"6",
        '"quoted" \\ $(touch done) `touch done`': b"7",
        "outside": ("120000", b"/etc/passwd"),
        "above": ("120000", b"../../../.."),
        ".gitattributes": b"* filter=evil text eol=crlf ident\n",
        ".gitmodules": b'[submodule "evil"]\n\tpath = evil\n\turl = ./x\n',
        "hooks/post-checkout": ("100755", b"#!/bin/sh\ntouch done\n"),
        "text": b"lf only\n$Id$\n",
    }
    given = shop.shelf.code(hostile)

    ran = await shop.run(
        "find . -type f -print0 | sort -z | xargs -0 sha256sum -z; git status --porcelain; git diff-files; "
        "readlink outside above; ls done",
        given,
    )

    names = [os.fsencode(name) if isinstance(name, str) else name for name in hostile]
    files = [(name, what if isinstance(what, bytes) else what[1]) for name, what in
             zip(names, hostile.values(), strict=True) if name not in {b"outside", b"above"}]  # fmt: skip
    wanted = b"".join(
        b"%b  ./%b\0" % (hashlib.sha256(content).hexdigest().encode(), name)
        for name, content in sorted(files)
    )
    assert ran.output.startswith(wanted)
    said = ran.output.removeprefix(wanted).decode()
    assert said == "/etc/passwd\n../../../..\nls: cannot access 'done': No such file or directory\n"
    assert ran.changes.found == []


async def test_attributes_that_convert_leave_the_code_clean_and_as_git_stores_it(shop):
    files = {
        ".gitattributes": b"auto text=auto\nforced text\ncrlf text eol=crlf\nid ident\nlfs filter=lfs -text\n"
        b"wide text working-tree-encoding=UTF-16\n",
        "auto": b"a\r\nb\r\n",
        "forced": b"a\r\nb\r\n",
        "crlf": b"a\nb\n",
        "id": b"$Id$ $Id: of old $\n",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 12345\n",
        "wide": b"narrow\n",
    }

    ran = await shop.run(
        "git status --porcelain; git diff HEAD; cat auto forced crlf id lfs wide", shop.shelf.code(files)
    )

    assert ran.output == b"".join(list(files.values())[1:])


async def test_writing_to_the_repository_fails_and_harms_nobody(shop, first):
    await shop.run("true", first)
    before = [contents(shop.data / part) for part in ("trees", "stores")]
    ran = await shop.run(
        "git config user.name x; git -c user.name=x -c user.email=x commit -qam x; git tag x; git gc -q; "
        "git checkout -q HEAD~1; rm -rf ../../.git; chmod -R 777 ../../.git; echo x > ../../.git/HEAD; true",
        first,
    )

    assert [contents(shop.data / part) for part in ("trees", "stores")] == before
    assert not [found for found in ran.changes.found if ".git" in found.path]
    again = await shop.run("git rev-parse HEAD && git status --porcelain && git fsck", first)
    assert (again.exit_code, again.lines[0]) == (0, first["commit"])
    if shop.engine.isolation != "none":
        assert ran.output.count(b"Read-only file system") > 5


async def test_no_repository_is_saved_neither_ours_nor_one_that_the_run_makes(shop, first):
    ran = await shop.run("git init -q own; echo x > own/file; echo made > made", first)

    assert [found.path for found in ran.changes.found] == ["repo/src/made", "repo/src/own/file"]
    assert ran.changes.deleted == []
    workspace.remove(ran.directory.path)
    assert not ran.directory.path.exists()


async def test_history_that_was_cut_off_ends_there(shop):
    missing = "1" * 40
    given = shop.shelf.code({"a": b"shallow"}, missing)
    shop.shelf.shallow.add(given["commit"])
    try:
        ran = await shop.run("git log --format=%H; git status --porcelain; git rev-list --count HEAD", given)
    finally:
        shop.shelf.shallow.clear()

    assert ran.lines == [given["commit"], "1"]


async def test_a_repository_may_name_its_objects_by_sha256(shop, tmp_path):
    shop.storage.shelf, before = Shelf(tmp_path / "shelf", "sha256"), shop.storage.shelf
    try:
        files = {path: what for path, what in FILES.items() if path != "vendored"}
        given = {**shop.storage.shelf.code(files), "repository_id": 256}
        ran = await shop.run("git rev-parse HEAD; git diff-files; git status --porcelain; git fsck", given)
    finally:
        shop.storage.shelf = before

    assert ran.lines[:1] == [given["commit"]]
    assert len(given["commit"]) == 64
    assert not [line for line in ran.lines[1:] if not line.startswith("notice: ")]


async def test_a_directory_may_have_any_name(shop):
    root = 'a "b" \\ #;\n{x} \u00e9'
    given = shop.shelf.code({"f": b"odd name"}, root=root)

    ran = await shop.run("git status --porcelain; git rev-parse --show-toplevel; cat f", given)

    assert ran.output.decode().endswith(f"/{root}\nodd name")


async def test_settings_of_the_machines_user_are_nobodys_business_of_ours(shop, first):
    """Nothing has to be set for git to trust the repository."""
    ran = await shop.run("env | grep ^GIT_; git status >/dev/null && echo fine", first)

    assert ran.lines == ["fine"]


def contents(root: Path) -> dict[str, bytes | str]:
    """Everything below a directory, to be compared."""
    found: dict[str, bytes | str] = {}
    for path, entry in workspace.walk(root):
        if entry.is_symlink():
            found[path] = str(Path(entry.path).readlink())
        elif entry.is_file():
            found[path] = Path(entry.path).read_bytes()
    return found
