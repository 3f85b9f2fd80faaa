"""What a person types to bring data, and to have it again; everything that may break on the way does."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from spell_cli.servers import Address, RemoteServer
from spell_cli.upload_client import UploadClient
from support.standalone import standalone, until

pytestmark = pytest.mark.e2e
MIB = 1 << 20


@pytest.fixture(name="data")
def _data(tmp_path) -> Path:
    """A directory with files of several kinds."""
    root = tmp_path / "data"
    (root / "train" / "deep").mkdir(parents=True)
    (root / "train" / "a.txt").write_text("a\n")
    (root / "train" / "same.txt").write_text("a\n")
    (root / "train" / "deep" / "big.bin").write_bytes(os.urandom(3 * MIB))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "empty").write_text("")
    (root / "latest").symlink_to("train/a.txt")
    (root / ".DS_Store").write_text("x")
    os.utime(root / "train" / "a.txt", (1_700_000_000, 1_700_000_000))
    return root


def tree(root):
    """Every file and link below a directory: content, mode, time."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = str(path.readlink())
        elif path.is_file() and path.name != ".DS_Store":
            status = path.stat()
            found[str(path.relative_to(root))] = (
                path.read_bytes(),
                status.st_mode & 0o111,
                int(status.st_mtime),
            )
    return found


def upload_client(stack):
    """Somebody who speaks to the server as the command does."""
    where = stack.client
    host, _, port = where["url"].removeprefix("http://").partition(":")
    return UploadClient(RemoteServer(Address(host, int(port), False, "", where["token"]), None))


def test_a_directory_is_brought_listed_copied_and_taken_away(stack, data):
    done = stack.spell("upload", str(data), "--name", "first")
    target = stack.work / "first-again"
    copied = stack.spell("cp", "uploads/first", str(target))
    listed = stack.json("ls", "uploads/first")
    # Were it looked through, it would be said that this name cannot be uploaded.
    unsayable = stack.work / "unsayable"
    unsayable.mkdir()
    Path(os.fsdecode(os.fsencode(unsayable) + b"/\xff")).touch()
    again = stack.spell("upload", str(unsayable), "--name", "first")
    removed = stack.spell("rm", "uploads/first")

    assert done.rc == 0, done
    assert done.stdout.splitlines() == [
        "Total upload size: 3.0M",
        f"Upload of first ({data}) to 'uploads/first' complete.",
    ]
    assert copied.rc == 0, copied
    assert tree(target) == tree(data)
    assert [entry["path"] for entry in listed] == ["empty", "latest", "run.sh", "train"]
    assert again.rc == 1
    assert "uploads/first is there already" in again.stderr
    assert "spell rm uploads/first" in " ".join(again.stderr.split())
    assert (removed.rc, removed.stdout) == (0, "Successfully removed uploads/first.\n")
    assert stack.spell("ls", "uploads/first").rc == 1


def test_a_file_alone_gets_a_name_and_stays_a_file(stack, data):
    done = stack.spell("upload", "-n", "weights", "run.sh", cwd=data)
    unnamed = stack.spell("upload", "run.sh", cwd=data)

    assert done.rc == 0, done
    assert [entry["path"] for entry in stack.json("ls", "uploads/weights")] == ["run.sh"]
    assert unnamed.rc == 2
    assert "Missing option '--name'" in unnamed.stderr


def test_a_name_comes_from_where_one_stands(stack, data):
    done = json.loads(stack.spell("upload", "--json", ".", cwd=data / "train").stdout)

    assert (done["name"], done["files"], done["bytes"]) == ("train", 3, 3 * MIB + 4)


def test_compressed_it_is_the_same_but_for_links(stack, data):
    done = stack.spell("upload", "--compress", str(data), "--name", "packed")
    target = stack.work / "packed-again"
    copied = stack.spell("cp", "uploads/packed", str(target))

    assert done.rc == 0, done
    assert "1 link is left out" in done.stderr
    assert copied.rc == 0, copied
    expected = tree(data)
    del expected["latest"]
    assert tree(target) == expected


def test_what_is_there_already_is_not_sent_again(stack, data):
    assert stack.spell("upload", str(data), "--name", "once").rc == 0
    objects = stack.data / "storage" / "blobs"
    before = {path for path in objects.rglob("*") if path.is_file() and path.stat().st_size > MIB}
    assert stack.spell("upload", str(data), "--name", "twice").rc == 0
    after = {path for path in objects.rglob("*") if path.is_file() and path.stat().st_size > MIB}

    assert before == after


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_upload_that_is_cut_off_goes_on_where_it_was(stack, tmp_path, number):
    name = f"cut{int(number)}"
    source = tmp_path / name
    source.mkdir()
    content = os.urandom(MIB) * 160
    (source / "big").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    parts = stack.data / "storage" / "blobs" / "parts"
    process = stack.start("upload", str(source))

    def some():
        return sum(1 for path in parts.rglob("*") if path.is_file()) >= 4

    until(some, 30, lambda: f"nothing arrives {process.poll()}")
    process.send_signal(number)
    said = process.communicate(timeout=30)[1].decode()
    client = upload_client(stack)
    begun = client.begin(name, compressed=False, files=1, size=len(content))
    _, offset = client.create(begun["id"], digest, digest, len(content))
    done = stack.spell("upload", str(source))

    assert process.returncode != 0
    assert 8 * MIB <= offset < len(content)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"Upload aborted. To resume this upload, run: spell upload --name {name} {source}" in said
    assert done.rc == 0, done
    assert stack.json("ls", f"uploads/{name}")[0]["sha256"] == digest
    until(lambda: not any(path.is_file() for path in parts.rglob("*")), 10, lambda: "parts are left")


def test_an_upload_goes_on_while_services_die(stack, tmp_path):
    source = tmp_path / "stormy"
    source.mkdir()
    for number in range(12):
        (source / f"f{number}").write_bytes(os.urandom(8 * MIB))
    process = stack.start("upload", str(source))
    for name in ("storage", "gateway", "storage"):
        if process.poll() is None:
            pid = stack.kill9(name)
            stack.until_running(name, instead_of=pid)
    said = process.communicate(timeout=120)

    assert process.returncode == 0, said
    target = stack.work / "stormy-again"
    assert stack.spell("cp", "uploads/stormy", str(target)).rc == 0
    assert {name: found[0] for name, found in tree(target).items()} == {
        name: found[0] for name, found in tree(source).items()
    }


def test_strange_names_come_back_as_they_went(stack, tmp_path):
    source = tmp_path / "strange"
    source.mkdir()
    names = [
        "new\nline",
        "x" * 255,
        "é",
        "e\u0301",
        "back\\slash",
        "*",
        " ",
        "-rf",
        "a:b",
        "\u202egnp.exe",
        "%41",
    ]
    for name in names:
        (source / name).write_text(name)

    for words in ([], ["--compress"]):
        name = f"strange{len(words)}"
        done = stack.spell("upload", *words, "--name", name, str(source))
        assert done.rc == 0, done
        listed = stack.spell("ls", f"uploads/{name}")
        target = stack.work / f"{name}-again"
        assert stack.spell("cp", f"uploads/{name}", str(target)).rc == 0
        assert sorted(path.name for path in target.iterdir()) == sorted(names)
        assert all((target / each).read_text() == each for each in names)
        assert len(listed.stdout.splitlines()) == len(names), "no name breaks a line"
        assert "\u202e" not in listed.stdout


@pytest.mark.parametrize("name", [b"\xff\xfe", b"%2e%2e"])
def test_names_that_nobody_could_ask_for_are_refused_by_name(stack, tmp_path, name):
    source = tmp_path / "bad"
    source.mkdir()
    (Path(os.fsdecode(os.fsencode(source) + b"/" + name))).write_text("x")
    result = stack.spell("upload", str(source))

    assert result.rc == 1
    assert "cannot be uploaded" in result.stderr
    assert ("xff" in result.stderr) or ("%2e%2e" in result.stderr)


def test_what_leads_out_or_is_special_is_left_out_and_named(stack, tmp_path):
    source = tmp_path / "special"
    source.mkdir()
    (source / "fine").write_text("x")
    (source / "out").symlink_to("/etc/passwd")
    (source / "up").symlink_to("../../secret")
    os.mkfifo(source / "pipe")
    (source / "void").mkdir()
    result = stack.spell("upload", str(source))

    assert result.rc == 0, result
    said = " ".join(result.stderr.split())
    assert "'out' is left out: it is a link to /etc/passwd, outside." in said
    assert "'up' is left out" in said
    assert "'pipe' is left out: it is neither file nor directory." in said
    assert "1 empty directory is left out: only files are kept" in said
    assert [entry["path"] for entry in stack.json("ls", "uploads/special")] == ["fine"]


def test_what_cannot_be_uploaded_is_refused_in_a_sentence(stack, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "fine").mkdir()
    (tmp_path / "fine" / "x").write_text("x")
    answers = {
        words: stack.spell("upload", *words, cwd=tmp_path)
        for words in (
            ("empty",),
            ("nothing",),
            ("fine", "-n", "a/b"),
            ("fine", "-n", ""),
            ("/dev/null", "-n", "x"),
        )
    }

    assert {words: result.rc for words, result in answers.items()} == {
        ("empty",): 1, ("nothing",): 1, ("fine", "-n", "a/b"): 2, ("fine", "-n", ""): 2, ("/dev/null", "-n", "x"): 1,
    }  # fmt: skip
    assert "Upload can not be empty" in answers[("empty",)].stderr
    assert "No such file or directory." in answers[("nothing",)].stderr
    assert "one name is allowed" in answers[("fine", "-n", "a/b")].stderr
    assert "neither a file nor a directory" in answers[("/dev/null", "-n", "x")].stderr


def test_only_uploads_are_taken_away_and_the_others_are_named(stack, data):
    assert stack.spell("upload", str(data), "--name", "gone").rc == 0
    result = stack.spell("rm", "uploads/gone", "uploads/gone/train", "runs/1", "uploads/nothing")

    assert result.rc == 1
    assert result.stdout == "Successfully removed uploads/gone.\n"
    said = " ".join(result.stderr.split())
    assert "uploads/gone/train: You must specify an uploaded resource." in said
    assert "runs/1: You must specify an uploaded resource." in said
    assert "'uploads/nothing': no such file or resource" in said


def test_what_is_published_can_be_listed_linked_and_taken_away(stack, data):
    done = stack.spell("cluster", "publish", str(data), "public/image/set")
    above = stack.spell("cluster", "publish", str(data), "public/image")
    wrong = stack.spell("cluster", "publish", str(data), "uploads/image")
    listed = stack.spell("ls", "public/image")
    linked = stack.spell("link", "set", "public/image/set/train")
    shown = stack.spell("ls", "set")
    target = stack.work / "published"
    copied = stack.spell("cp", "public/image/set/train/a.txt", str(target))
    removed = stack.spell("cluster", "publish", "--remove", "public/image/set")
    again = stack.spell("cluster", "publish", "--remove", "public/image/set")

    assert (done.rc, done.stdout.splitlines()[-1]) == (0, f"Published {data} as public/image/set."), done
    assert (above.rc, "one cannot be in the other" in above.stderr) == (1, True)
    assert (wrong.rc, "is not below public/" in wrong.stderr) == (2, True)
    assert listed.stdout.endswith(" set/\n")
    assert linked.rc == shown.rc == 0
    assert copied.rc == 0
    assert (target / "a.txt").read_text() == "a\n"
    assert (removed.rc, removed.stdout) == (0, "Successfully removed public/image/set.\n")
    assert again.rc == 1
    assert stack.spell("ls", "public/image").rc == 1


def test_a_file_that_changes_while_it_is_uploaded_is_named(stack, tmp_path):
    source = tmp_path / "moving"
    source.mkdir()
    (source / "log").write_bytes(os.urandom(MIB) * 64)
    process = stack.start("upload", str(source))
    with (source / "log").open("r+b") as file:
        while process.poll() is None:
            file.seek(0)
            file.write(os.urandom(4096))
            file.seek(60 * MIB)
            file.write(os.urandom(4096))
            file.flush()
            time.sleep(0.001)
    said = " ".join(process.communicate(timeout=60)[1].decode().split())

    assert process.returncode == 1, said
    assert "'log' changed while it was uploaded." in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_copy_that_is_cut_off_goes_on_where_it_was(stack, tmp_path, number):
    name = f"copied{int(number)}"
    source = tmp_path / name
    source.mkdir()
    (source / "big").write_bytes(os.urandom(MIB) * 200)
    (source / "small").write_text("x")
    assert stack.spell("upload", str(source)).rc == 0
    target = stack.work / name
    process = stack.start("cp", f"uploads/{name}", str(target))

    def some():
        return any(path.stat().st_size >= 8 * MIB for path in target.glob(".spell-*.part"))

    until(some, 30, lambda: f"nothing arrives {process.poll()}")
    process.send_signal(number)
    said = process.communicate(timeout=30)[1].decode()
    left = next(iter(target.glob(".spell-*.part")))
    first = left.read_bytes()[: 8 * MIB]
    done = stack.spell("cp", f"uploads/{name}", str(target))
    again = stack.spell("cp", f"uploads/{name}", str(target))

    assert process.returncode != 0
    if number == signal.SIGINT:
        assert "Copy aborted. To go on, run the same command again." in said
    assert first == (source / "big").read_bytes()[: 8 * MIB]
    assert done.rc == 0, done
    assert tree(target) == tree(source)
    assert list(target.glob(".spell-*")) == []
    assert (again.rc, again.stdout) == (0, "✔ Copied 0 files. Skipped 2 files.\n")


def test_a_leftover_of_something_else_does_no_harm(stack, tmp_path):
    source = tmp_path / "other"
    source.mkdir()
    content = os.urandom(MIB) * 9
    (source / "big").write_bytes(content)
    assert stack.spell("upload", str(source)).rc == 0
    target = stack.work / "other"
    target.mkdir()
    leftover = target / f".spell-{hashlib.sha256(content).hexdigest()[:32]}.part"
    leftover.write_bytes(b"something else")
    wrong = stack.spell("cp", "uploads/other", str(target))
    right = stack.spell("cp", "uploads/other", str(target))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (target / "big").unlink()
    leftover.symlink_to(elsewhere)
    linked = stack.spell("cp", "uploads/other", str(target))

    assert (wrong.rc, "Nothing was kept of it." in wrong.stderr) == (1, True), wrong
    assert right.rc == linked.rc == 0
    assert (target / "big").read_bytes() == content
    assert elsewhere.read_text() == "mine"


@pytest.fixture(scope="module", name="two")
def _two(stack, tmp_path_factory):
    """Two uploads that differ."""
    root = tmp_path_factory.mktemp("two")
    for name, files in {
        "old": {"same": "x", "gone": "12", "log.txt": "one\ntwo\n", "d/bin": "\0a"},
        "new": {"same": "x", "came": "123", "log.txt": "one\nthree\n", "d/bin": "\0b"},
    }.items():
        for path, text in files.items():
            (root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (root / name / path).write_text(text)
        assert stack.spell("upload", str(root / name)).rc == 0


def test_two_resources_are_compared(stack, two):
    result = stack.spell("diff", "uploads/old", "uploads/new")
    told = stack.json("diff", "uploads/old", "uploads/new")
    files = stack.spell("diff", "uploads/old/log.txt", "uploads/new/came")
    same = stack.spell("diff", "uploads/old", "uploads/old")
    mixed = stack.spell("diff", "uploads/old", "uploads/new/came")

    assert result.rc == 0, result
    assert result.stdout.splitlines() == [
        "--- uploads/old/log.txt",
        "+++ uploads/new/log.txt",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+three",
        "+ came  3",
        "~ d/bin  2, other content",
        "- gone  2",
        "~ log.txt  8 became 10",
        "1 added, 1 removed, 2 changed, 1 the same",
    ]
    assert [entry["path"] for entry in told["added"]] == ["came"]
    assert [change["path"] for change in told["changed"]] == ["d/bin", "log.txt"]
    assert "+++ uploads/new/came" in files.stdout
    assert same.stdout == "0 added, 0 removed, 0 changed, 4 the same\n"
    assert (mixed.rc, "One of the two is a file" in mixed.stderr) == (1, True)


def test_how_much_there_is_is_added_up(stack, two):
    whole = stack.spell("du", "uploads/new")
    every = stack.json("du", "uploads")
    top = stack.spell("du", "-h")
    alone = stack.spell("du", "uploads/new/d/bin")

    assert [line.split() for line in whole.stdout.splitlines()] == [
        ["3", "uploads/new/came"],
        ["2", "uploads/new/d"],
        ["10", "uploads/new/log.txt"],
        ["1", "uploads/new/same"],
        ["16", "uploads/new"],
    ]
    assert {"path": "new", "files": 4, "bytes": 16} in every["entries"]
    assert every["bytes"] == sum(entry["bytes"] for entry in every["entries"])
    assert [line.split()[1] for line in top.stdout.splitlines()] == ["runs", "uploads", "total"]
    assert [line.split()[0] for line in alone.stdout.splitlines()] == ["2", "2"]
    assert stack.spell("du", "uploads/nothing").rc == 1


def test_data_of_ones_own_links_and_what_is_published_are_mounted(stack, tmp_path):
    """Names that are strange come back in the run as they went."""
    names = ["new\nline", "x" * 255, "é", "e\u0301", "back\\slash", " ", "-rf", "a:b", "\u202egnp.exe"]
    for name in names:
        (tmp_path / "names").mkdir(exist_ok=True)
        (tmp_path / "names" / name).write_text(name)
    (tmp_path / "names" / "sub").mkdir()
    (tmp_path / "names" / "sub" / "w").write_text("weights\n")
    assert stack.spell("upload", "-n", "mounted", str(tmp_path / "names")).rc == 0
    assert stack.spell("link", "mine", "uploads/mounted/sub").rc == 0
    assert stack.spell("cluster", "publish", str(tmp_path / "names" / "sub"), "public/kind/sub").rc == 0
    script = "import os, json; print('NAMES', json.dumps(sorted(os.listdir('/mnt/all'))))"
    result = stack.spell(
        "run", "-m", "uploads/mounted:/mnt/all", "-m", "mine:linked", "-m", "public/kind/sub/w:/data/w",
        f'python3 -c "{script}"; cat linked/w /data/w',
    )  # fmt: skip
    line = next((line for line in result.stdout.splitlines() if line.startswith("NAMES ")), None)

    assert result.rc == 0, result
    assert json.loads(line.removeprefix("NAMES ")) == sorted([*names, "sub"])
    assert result.stdout.splitlines().count("weights") == 2


def test_what_has_no_room_is_refused_before_it_is_sent(tmp_path):
    for name, size in (("small", 3 * MIB), ("large", 20 * MIB)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(os.urandom(size))
    with standalone(owner_bytes_max=10 * MIB) as stack:
        small = stack.spell("upload", str(tmp_path / "small"))
        again = stack.spell("upload", "-n", "again", str(tmp_path / "small"))
        large = stack.spell("upload", str(tmp_path / "large"))
        kept = sum(path.stat().st_size for path in (stack.data / "storage").rglob("*") if path.is_file())

    assert (small.rc, again.rc) == (0, 0), (small, again)
    assert large.rc == 1
    assert "10 MB are allowed" in " ".join(large.stderr.split()), large
    assert kept < 6 * MIB, "nothing of the large one was sent"


def test_memory_does_not_grow_with_a_file(stack, tmp_path):
    source = tmp_path / "huge"
    source.mkdir()
    with (source / "zeros").open("wb") as file:
        file.truncate(600 * MIB)
    assert stack.spell("upload", "-n", "warm", str(source)).rc == 0
    with (source / "zeros").open("r+b") as file:
        file.write(b"other")

    before = {name: peak(stack.pid(name)) for name in ("storage", "gateway")}
    process = stack.start("upload", "-n", "huge", str(source))
    own = 0
    while process.poll() is None:
        own = max(own, peak(process.pid))
        time.sleep(0.05)
    after = {name: peak(stack.pid(name)) for name in ("storage", "gateway")}

    assert process.returncode == 0, process.communicate()
    assert own < 150 * MIB
    assert all(after[name] - before[name] < 64 * MIB for name in before), (before, after)


def peak(pid):
    """The most memory that a process has had, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
