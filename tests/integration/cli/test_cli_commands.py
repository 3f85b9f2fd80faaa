"""Every command but `run`, as a process."""

import json
import re
import subprocess
import threading

import pytest

from integration.cli.cli_server import note, stdout, whole
from integration.cli.conftest import SPELL

pytestmark = pytest.mark.integration


def out(done):
    return done.stdout.decode()


def err(done):
    return done.stderr.decode()


def test_without_words_there_is_help(cli):
    done = cli()

    assert done.returncode == 0
    assert out(done).startswith("Usage: spell [OPTIONS] [COMMAND] [ARGS]...")
    assert re.search(r"^  run +Run a command", out(done), re.MULTILINE)


def test_the_version_is_told(cli):
    assert re.fullmatch(r"spell, version [\d.]+\n", out(cli("--version")))


def test_a_slip_in_a_command_gets_a_suggestion(cli):
    done = cli("lgs", "7")

    assert done.returncode == 2
    assert "Did you mean 'logs'?" in err(done)


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_a_run_that_does_not_exist_is_refused(cli, command):
    done = cli(command, "7")

    assert (done.returncode, err(done)) == (1, "ERROR: run 7: there is no such run\n")


def test_ps_lists_the_newest_last(cli, server):
    server.add_run(state="complete", exit_code=66, labels=["x"])
    server.add_run(state="running")
    server.add_run()

    assert out(cli("ps")).splitlines() == [
        "ID  REPOSITORY  COMMAND  STATUS         CREATOR",
        "1               true     Complete (66)  alice",
        "2               true     *Running       alice",
        "3               true     Queued         alice",
    ]
    assert len(out(cli("ps", "-n", "1")).splitlines()) == 2
    assert [run["id"] for run in json.loads(out(cli("ps", "--label", "x", "--json")))] == [1]


def test_ps_colours_active_runs_on_a_terminal_only(cli, server):
    server.add_run(state="running")
    coloured, plain = cli.terminal("ps"), cli.terminal("ps", NO_COLOR="1")
    coloured.end()
    plain.end()

    assert b"\x1b[32m*Running\x1b[0m" in coloured.raw
    assert b"\x1b" not in plain.raw


def test_ps_of_a_repository_that_does_not_exist(cli):
    done = cli("ps", "-r", "nosuch")

    assert (done.returncode, err(done)) == (1, "ERROR: No repository found named nosuch\n")


def test_info_shows_a_run(cli, server):
    server.add_run(state="complete", exit_code=0, labels=["x"])
    done = cli("info", "1")

    assert re.search(r"^Status +complete \(0\)$", out(done), re.MULTILINE)
    assert re.search(r"^Labels +x$", out(done), re.MULTILINE)
    assert json.loads(out(cli("info", "--json", "1")))["id"] == 1


def test_archive_takes_what_has_ended_and_names_the_rest(cli, server):
    for state in ("complete", "stopped", "running", "killed"):
        server.add_run(state=state, ended_at=None if state == "running" else "2026-01-02T03:04:05+00:00")

    one, again = cli("archive", "1"), cli("archive", "1")
    several = cli("archive", "2", "4", "2")
    mixed, quiet = cli("archive", "3", "4", "99"), cli("archive", "-q", "3")
    told = cli("archive", "--json", "3", "4", "99")

    assert (one.returncode, out(one)) == (0, "1\n")
    assert (again.returncode, err(again)) == (1, "ERROR: Already archived: 1\n")
    assert (several.returncode, out(several)) == (0, "Successfully archived runs: 2 4\n")
    assert (mixed.returncode, out(mixed)) == (1, "")
    assert err(mixed).splitlines() == [
        "ERROR: Run ID does not exist: 99",
        "ERROR: Already archived: 4",
        "ERROR: Still active, to be stopped or killed first: 3",
    ]
    assert (quiet.returncode, out(quiet)) == (1, "")
    assert (told.returncode, err(told)) == (1, err(mixed))
    assert json.loads(out(told)) == {"archived": [], "already_archived": [4], "active": [3], "unknown": [99]}
    assert re.search("^Archived +", out(cli("info", "1")), re.MULTILINE)


def test_a_check_of_storage_names_what_is_damaged(cli, server):
    line = {
        "files": 2,
        "bytes": 2_048,
        "bytes_of_all": 2_048,
        "damaged": 0,
        "unreadable": 0,
        "found": [],
        "strays": 0,
        "done": True,
    }
    file = {"sha256": "a" * 64, "size": 1_024, "owner_id": 1, "manifest": "b" * 64, "path": "x"}
    file["unreadable"] = False
    found = [{**file, "name": "runs/1/x"}, {**file, "name": None}]

    server.check_lines = [{**line, "done": False}, line]
    whole = cli("storage", "check")
    server.check_lines = [{**line, "done": False, "found": found}, {**line, "damaged": 1, "strays": 1}]
    rotten, as_json = cli("storage", "check"), cli("storage", "check", "--json")
    away = {**file, "sha256": "c" * 64, "name": "runs/2/y", "unreadable": True}
    server.check_lines = [{**line, "found": [away]}, {**line, "damaged": 3, "unreadable": 1}]
    unread = cli("storage", "check")
    server.check_lines = [{**line, "done": False}]
    broken = cli("storage", "check")

    assert (whole.returncode, out(whole)) == (0, "2 stored files, 2.0K: all are whole.\n")
    assert rotten.returncode == 1
    assert out(rotten).splitlines() == [
        "✖ runs/1/x: damaged or lost, 1.0K",
        f"✖ a file that nothing names (SHA-256 {'a' * 64}): damaged or lost, 1.0K",
        "1 stored file on no record will be removed.",
        "1 of 2 stored files is damaged or lost. Whoever saves or uploads the same content again puts it right.",
    ]
    assert (as_json.returncode, json.loads(out(as_json))["found"]) == (1, found)
    assert unread.returncode == 1
    assert out(unread).splitlines() == [
        "✖ runs/2/y: could not be read, 1.0K",
        "3 stored files more are not named here.",
        "1 of 2 stored files could not be read; the log of storage says why.",
        "3 of 2 stored files are damaged or lost. Whoever saves or uploads the same content again puts it right.",
    ]
    assert (broken.returncode, err(broken)) == (1, "ERROR: The check broke off. Try again.\n")


def test_logs_of_a_run_that_goes_on_end_where_they_are(cli, server):
    server.add_run(state="running")
    server.script = [*whole()[:4], stdout(b"so far\n"), threading.Event()]
    done = cli("logs", "1")

    assert done.returncode == 0
    assert out(done).endswith("✨ Run is running\nso far\n")


def test_logs_of_a_failed_run_are_no_failure(cli, server):
    server.add_run()
    server.final = {"state": "failed", "reason": "oom"}

    assert cli("logs", "1").returncode == 0


def test_the_tail_of_a_log_goes_on_behind_a_lost_connection(cli, server):
    server.add_run()
    lines = [stdout(b"line %d\n" % number) for number in range(20)]
    server.script = [*lines[:15], "cut", *lines[15:]]
    done = cli("logs", "-f", "-n", "10", "1")

    assert re.findall(r"line (\d+)", out(done)) == [str(number) for number in range(10, 20)]


def test_a_phase_that_was_left_open_is_not_called_done(cli, server):
    server.add_run()
    server.script = [*whole()[:2], note("Installing"), threading.Event()]
    terminal = cli.terminal("logs", "1")

    assert terminal.end() == 0
    assert terminal.lines == ["✨ Machine_Requested… done", "✨ Building…", ""]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([{"state": "complete", "exit_code": 0}], 0),
        ([{"state": "complete", "exit_code": 3}], 3),
        ([{"state": "complete", "exit_code": 0}, {"state": "failed"}, {"state": "killed"}], 70),
        ([{"state": "stopped"}, {"state": "interrupted"}], 75),
    ],
)
def test_waiting_ends_as_the_runs_did(cli, server, states, code):
    for given in states:
        server.add_run(**given)

    assert cli("wait", *map(str, server.runs)).returncode == code


def test_waiting_waits(cli, server):
    run = server.add_run(state="running")
    process = cli.start("wait", "1")
    while len(server.asked) < 2:
        assert process.poll() is None
    run |= {"state": "complete", "exit_code": 5}

    assert process.wait(20) == 5


@pytest.mark.parametrize(
    ("state", "command", "text"),
    [
        ("running", "stop", "Stopping run 1. Use 'spell logs -f 1' to view logs while the job finishes.\n"),
        ("requested", "stop", "Killed run 1. Execution was not initiated.\n"),
        ("complete", "stop", "Run 1 is already complete.\n"),
        ("running", "kill", "1\n"),
        ("killed", "kill", "Run 1 is already killed.\n"),
    ],
)
def test_ending_one_run(cli, server, state, command, text):
    server.add_run(state=state)
    done = cli(command, "1")

    assert (done.returncode, out(done)) == (0, text)
    assert out(cli(command, "-q", "1")) == ""


SNAPSHOT = {"number": 3, "asked": 1, "manifest": "m", "files": 2, "bytes": 2048, "at": "2026-11-22T12:00:00Z"}


@pytest.mark.parametrize(
    ("after", "code", "text"),
    [
        ({"saves_met": 1, "snapshots": [SNAPSHOT]}, 0, "Saved runs/1@3: 2 files, 2.0K, 2026-11-22"),
        (
            {"saves_met": 1, "snapshots": [SNAPSHOT | {"notes": ["'/spell/a' changed during save"]}]},
            0,
            "'/spell/a' changed during save",
        ),
        (
            {"saves_met": 1, "snapshots": [SNAPSHOT | {"manifest": None, "files": 0}]},
            0,
            "No modified or new files found: runs/1@3 is empty.",
        ),
        ({"saves_met": 1, "save_problem": "no room"}, 1, "Run 1 could not be saved: no room"),
        (
            {"state": "saving"},
            1,
            "Run 1 has ended meanwhile; what it made is being saved as runs/1.",
        ),
        ({"state": "killed"}, 1, "Run 1 has ended meanwhile, and is killed."),
    ],
)
def test_saving_a_run_says_what_came_of_it(cli, server, after, code, text):
    server.add_run(state="running")
    server.after_save = after
    done = cli("save", "1")

    assert done.returncode == code
    assert text in out(done) + err(done)


def test_saving_waits_for_a_snapshot_that_was_begun_since(cli, server):
    run = server.add_run(state="running", saves=4, snapshots=[SNAPSHOT | {"asked": 4}])
    process = cli.start("save", "1", "--json")
    while len(server.asked) < 3:
        assert process.poll() is None
    run["snapshots"] = [SNAPSHOT, SNAPSHOT | {"number": 4, "asked": 5}]

    assert process.wait(20) == 0


def test_saving_in_the_background_does_not_wait(cli, server):
    server.add_run(state="running")

    assert out(cli("save", "-b", "1")) == "Run 1 is saved as soon as its machine can.\n"


def test_ending_several_runs(cli, server):
    for state in ("running", "requested", "complete"):
        server.add_run(state=state)
    done = cli("stop", "1", "2", "3", "9", "1")

    assert done.returncode == 1
    assert out(done).splitlines() == [
        "Executing batch stop... Use 'spell logs -f RUN_ID' to view logs for a run while the job finishes.",
        "| Already finished: 3",
        "| Run ID does not exist: 9",
        "--------------------------------------",
        "| Successfully stopping: 1 . Any outputs will be pushed and saved.",
        "| Successfully killed: 2 . Execution was not initiated.",
    ]
    assert out(cli("kill", "1", "2")).splitlines() == [
        "Executing batch kill...",
        "| Successfully killed: 1 2",
    ]


def test_labels_come_and_go(cli, server):
    server.add_run()

    assert out(cli("label", "1", "a b")) == "Successfully added label a b to run 1.\n"
    assert server.runs[1]["labels"] == ["a b"]
    assert out(cli("label", "1", "a b", "--remove")) == "Successfully removed label a b from run 1.\n"
    assert server.runs[1]["labels"] == []


def test_ls_shows_sizes_dates_and_directories(cli, server):
    server.add_file(1, "model.pt", b"x" * 3000)
    server.add_file(1, "log", b"x", changed=True)
    server.entries["runs/1"] += [
        {"path": "ckpt", "size": None, "modified_at": None, "sha256": None, "mode": None, "link": None},
        {"path": "latest", "size": 0, "modified_at": None, "sha256": None, "mode": None, "link": "model.pt"},
    ]

    assert out(cli("ls", "runs/1/")).splitlines() == [
        "    3000 Nov 22 11:50   model.pt",
        "       1 Nov 22 11:50   log  (changed while it was saved)",
        "       - -              ckpt/",
        "       0 -              latest → model.pt",
    ]
    assert out(cli("ls", "-h", "runs/1")).startswith("    2.9K")
    told = json.loads(out(cli("ls", "--json", "runs/1")))
    assert (len(told), [entry["path"] for entry in told if entry.get("changed")]) == (4, ["log"])


def test_ls_of_nothing(cli, server):
    server.entries[""] = []

    assert (out(cli("ls")), err(cli("ls"))) == ("", "No files yet.\n")
    assert cli("ls", "runs/9").returncode == 1


def test_cp_fetches_whole_directories(cli, server):
    big = bytes(range(256)) * 4000
    server.add_file(1, "a/b/big.bin", big)
    server.add_file(1, "run.sh", b"#!/bin/sh\n", mode=0o755)
    server.add_file(1, "empty", b"")
    server.entries["runs/1"].append(
        {"path": "a/link", "size": 0, "modified_at": None, "sha256": None, "mode": 0o777, "link": "b/big.bin"}
    )
    done = cli("cp", "runs/1", "out")

    assert out(done) == "✔ Copied 3 files, 1 link.\n", err(done)
    # The server hangs up in the middle of it once.
    assert (cli.cwd / "out/a/b/big.bin").read_bytes() == big
    assert (cli.cwd / "out/a/link").read_bytes() == big
    assert (cli.cwd / "out/run.sh").stat().st_mode & 0o777 == 0o755
    assert (cli.cwd / "out/empty").read_bytes() == b""
    assert not list((cli.cwd / "out").rglob(".spell-*"))


def test_cp_fetches_one_file(cli, server):
    server.add_file(1, "model.pt", b"weights")

    assert out(cli("cp", "runs/1/model.pt")) == "✔ Copied 1 files.\n"
    assert (cli.cwd / "model.pt").read_bytes() == b"weights"


def test_cp_of_a_directory_that_holds_one_file_of_its_own_name(cli, server):
    server.add_file(1, "data/data", b"x")
    server.entries["runs/1/data"] = [{**server.entries["runs/1"][0], "path": "data"}]

    assert out(cli("cp", "runs/1/data", "out")) == "✔ Copied 1 files.\n"
    assert (cli.cwd / "out/data").read_bytes() == b"x"


def test_cp_does_not_keep_what_did_not_arrive_as_it_was_saved(cli, server):
    server.add_file(1, "model.pt", b"weights", sha256="0" * 64)
    done = cli("cp", "runs/1", "out")

    assert done.returncode == 1
    assert "did not arrive as it was saved" in err(done)
    assert list((cli.cwd / "out").iterdir()) == []


def test_cp_fetches_the_rest_where_one_file_is_refused(cli, server):
    for name in ("a", "b", "c"):
        server.add_file(1, name, b"x")
    # An older server does not know how to send them together.
    server.refuse("POST", "/api/files/runs/1", 404, "not_found", "no such route")
    server.refuse("GET", "/api/files/runs/1/b", 404, "file_not_found", "'runs/1/b' is gone")
    done = cli("cp", "runs/1", "out")

    assert (done.returncode, out(done)) == (1, "✖ Copied 2 files. Skipped 1 files.\n")
    assert "WARNING: File 'b' ignored: 'runs/1/b' is gone.\n" in err(done)
    assert sorted(path.name for path in (cli.cwd / "out").iterdir()) == ["a", "c"]
    server.refuse("GET", "/api/files/runs/1/b", 404, "file_not_found", "'runs/1/b' is gone")
    told = cli("cp", "--json", "runs/1", "out")
    assert (told.returncode, json.loads(out(told))) == (
        1,
        {"copied": 0, "links": 0, "skipped": 3, "ignored": [{"path": "b", "why": "'runs/1/b' is gone"}]},
    )


def test_cp_keeps_modes_also_of_what_nobody_can_read(cli, server):
    modes = {"none": 0o000, "write": 0o200, "read": 0o444, "run": 0o751}
    for name, mode in modes.items():
        server.add_file(1, name, b"x", mode=mode)

    first = cli("cp", "runs/1", "out")
    again = cli("cp", "runs/1", "out")

    assert out(first) == "✔ Copied 4 files.\n", err(first)
    assert out(again) == "✔ Copied 0 files. Skipped 4 files.\n", err(again)
    assert {name: (cli.cwd / "out" / name).stat().st_mode & 0o777 for name in modes} == modes


def test_cp_goes_through_no_link_that_stands_in_the_target_directory(cli, server):
    for name in ("fine", "d/inside", "in-place"):
        server.add_file(1, name, b"new")
    elsewhere, target = cli.cwd / "elsewhere", cli.cwd / "out"
    elsewhere.mkdir()
    target.mkdir()
    (elsewhere / "file").write_text("old")
    (target / "d").symlink_to(elsewhere)
    (target / "in-place").symlink_to(elsewhere / "file")

    done = cli("cp", "-f", "runs/1", "out")

    assert out(done) == "✔ Copied 2 files. Skipped 1 files.\n"
    assert "File 'd/inside' ignored: a link in the target directory leads elsewhere." in " ".join(
        err(done).split()
    )
    assert sorted(path.name for path in elsewhere.iterdir()) == ["file"]
    assert (elsewhere / "file").read_text() == "old"
    assert not (target / "in-place").is_symlink()
    assert (target / "in-place").read_text() == "new"


def test_cp_into_a_link_to_a_directory_goes_where_it_leads(cli, server):
    server.add_file(1, "fine", b"x")
    (cli.cwd / "real").mkdir()
    (cli.cwd / "out").symlink_to("real")

    assert out(cli("cp", "runs/1", "out")) == "✔ Copied 1 files.\n"
    assert (cli.cwd / "real" / "fine").read_bytes() == b"x"


def test_cp_onto_a_full_disk_says_so_and_leaves_nothing(cli, server):
    """A real file system of 1 MiB, so that nothing is acted."""
    full = cli.cwd / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    try:
        server.add_file(1, "large", bytes(4 << 20))
        done = cli("cp", "runs/1", "full")
        left = list(full.iterdir())
    finally:
        subprocess.run(["umount", str(full)], check=True)

    assert done.returncode == 1
    assert "Ran out of disk space: No space left on device." in " ".join(err(done).split())
    assert left == []


def test_cp_of_many_small_files_keeps_its_connections(cli, server):
    for number in range(40):
        server.add_file(1, f"f{number}", b"x")
    done = cli("cp", "runs/1", "out")

    assert out(done) == "✔ Copied 40 files.\n"
    # One for the listing, and one for each of the four that fetch.
    assert len(server.callers) <= 5


def packs_asked(server):
    return [
        set(body["digests"])
        for method, path, _, body in server.asked
        if (method, path[:11]) == ("POST", "/api/files/")
    ]


def test_cp_of_small_files_asks_for_them_together_and_goes_on_where_that_broke_off(cli, server):
    contents = [b"%d" % number for number in range(100)]
    for number, content in enumerate(contents):
        server.add_file(1, f"d{number % 3}/f{number}", content)
        server.add_file(1, f"same/f{number}", content, mode=0o755)
    server.packs = [lambda pack: pack[: len(pack) // 2 + 5]]
    done = cli("cp", "runs/1", "out")

    assert out(done) == "✔ Copied 200 files.\n", err(done)
    for number, content in enumerate(contents):
        assert (cli.cwd / f"out/d{number % 3}/f{number}").read_bytes() == content
        assert (cli.cwd / f"out/same/f{number}").read_bytes() == content
    assert (cli.cwd / "out/same/f7").stat().st_mode & 0o777 == 0o755
    first, second = packs_asked(server)
    assert (len(first), second < first) == (100, True)
    assert 40 < len(second) < 60, "what has come is not asked for again"
    assert not list((cli.cwd / "out").rglob(".spell-*"))


@pytest.mark.parametrize(
    "hostile",
    [
        lambda pack: pack[:36] + bytes([pack[36] ^ 1]) + pack[37:],
        lambda pack: pack[:32] + b"\xff\xff\xff\xff" + pack[36:] + bytes(100),
        lambda pack: pack + bytes(32) + b"\0\0\0\1x",
        lambda pack: pack + pack,
        lambda pack: b"<html>" * (len(pack) + 6),
    ],
    ids=["damaged", "lies", "unasked", "twice", "other"],
)
def test_cp_takes_nothing_from_a_pack_that_is_not_as_it_should_be(cli, server, hostile):
    for number in range(20):
        server.add_file(1, f"f{number}", b"what it is %d" % number)
    server.packs = [hostile]
    done = cli("cp", "runs/1", "out")

    assert out(done) == "✔ Copied 20 files.\n", err(done)
    for number in range(20):
        assert (cli.cwd / f"out/f{number}").read_bytes() == b"what it is %d" % number
    assert len(list((cli.cwd / "out").iterdir())) == 20


def test_cp_never_leaves_its_directory(cli, server):
    server.add_file(1, "fine", b"x")
    server.entries["runs/1"] += [
        {**server.entries["runs/1"][0], "path": "../evil"},
        {**server.entries["runs/1"][0], "path": "l", "link": "/etc/passwd"},
    ]
    done = cli("cp", "runs/1", "out")

    assert out(done) == "✔ Copied 1 files. Skipped 2 files.\n"
    assert sorted(path.name for path in cli.cwd.rglob("*")) == ["fine", "out"]


def test_cp_asks_before_it_overwrites(cli, server):
    server.add_file(1, "x", b"new")
    (cli.cwd / "x").write_text("old")

    refused = cli("cp", "runs/1")
    assert refused.returncode == 1
    assert "File 'x' already exists." in err(refused)

    assert out(cli("cp", "-i", "runs/1")) == "✔ Copied 0 files. Skipped 1 files.\n"
    assert (cli.cwd / "x").read_text() == "old"

    terminal = cli.terminal("cp", "runs/1")
    terminal.until("File 'x' already exists. Are you sure you want to overwrite? [y/N]: ")
    terminal.type("\n")
    assert terminal.end() == 0
    assert (cli.cwd / "x").read_text() == "old"

    assert out(cli("cp", "-f", "runs/1")) == "✔ Copied 1 files.\n"
    assert (cli.cwd / "x").read_text() == "new"


@pytest.mark.parametrize("source", ["runs", "runs/", "."])
def test_cp_of_all_runs_is_refused(cli, server, source):
    server.entries[""] = server.entries["runs"] = []
    done = cli("cp", source, "out")

    assert done.returncode == 1
    assert "is a list of resources." in " ".join(err(done).split())
    assert not (cli.cwd / "out").exists()


def test_leaving_a_question_begins_a_new_line(cli, server):
    server.add_file(1, "x", b"new")
    (cli.cwd / "x").write_text("old")
    terminal = cli.terminal("cp", "runs/1")
    terminal.until("[y/N]: ")
    terminal.interrupt()
    terminal.end()

    assert terminal.lines[-2:] == ["Aborted!", ""]


def test_cp_leaves_a_directory_in_the_way_alone(cli, server):
    server.add_file(1, "x", b"new")
    (cli.cwd / "x").mkdir()
    done = cli("cp", "-f", "runs/1")

    assert "File 'x' ignored: a local directory with that name already exists." in " ".join(err(done).split())
    assert (cli.cwd / "x").is_dir()


def event(run_id, version, cursor, **given):
    row = {"run_id": run_id, "version": version, "kind": "moved", "before": None, "after": "requested"}
    more = {"intent": "run", "reason": None, "exit_code": None, "at": "2026-11-22T11:50:00.123456Z"}
    return row | more | {"cursor": cursor} | given


def test_events_are_told_in_sentences(cli, server):
    server.events = [
        event(1, 1, "a"),
        event(1, 2, "b", before="requested", after="building"),
        event(1, 3, "c", kind="intent", before="running", after="running", intent="stop"),
        event(1, 4, "d", before="pushing", after="stopped", reason="stopped_by_user", exit_code=143),
    ]

    assert out(cli("events")).splitlines() == [
        "2026-11-22 11:50:00.123  run 1  requested",
        "2026-11-22 11:50:00.123  run 1  requested → building",
        "2026-11-22 11:50:00.123  run 1  is to be stopped",
        "2026-11-22 11:50:00.123  run 1  pushing → stopped (143), stopped by its user",
    ]
    assert [json.loads(line)["version"] for line in out(cli("events", "--json")).splitlines()] == [1, 2, 3, 4]


def test_events_go_on_behind_the_last_one_after_a_lost_connection(cli, server):
    server.events = [event(1, 1, "a"), event(1, 2, "b"), event(1, 3, "c")]
    process = cli.start("events", "--follow", "--json")
    while sum(path == "/api/events" for _, path, _, _ in server.asked) < 3:
        assert process.poll() is None
    process.terminate()

    versions = [json.loads(line)["version"] for line in process.communicate(timeout=20)[0].splitlines()]
    assert versions == [1, 2, 3]


def test_verify_gives_a_verdict(cli, server):
    done = cli("verify", "7")
    assert (done.returncode, out(done)) == (
        0,
        "✔ I1  Every move is legal (12 checked)\nRun 7: all 1 checks hold.\n",
    )

    server.checks.append(
        {"id": "I2", "title": "Logs are whole", "ok": False, "checked": 3, "detail": "run 5"}
    )
    done = cli("verify")
    assert done.returncode == 1
    assert out(done).splitlines()[1:] == [
        "✖ I2  Logs are whole (3 checked)",
        "  run 5",
        "All runs: 1 of 2 checks do not hold.",
    ]
    assert len(json.loads(out(cli("verify", "--json")))) == 2


def test_status_shows_services_then_limits_and_counts(cli):
    done = cli("status")

    assert done.returncode == 0
    assert out(done).splitlines() == [
        "SERVICE  STATE  VERSION  DETAIL",
        "gateway  ok     0.1.0",
        "",
        "Run history:",
        "- total: 9 runs",
        "- running: 3 runs",
        "- currently queued due to concurrency: 2 runs",
        "- currently waiting for a machine: 1 runs",
        "- plan concurrency limit: 4 runs",
        "Saved files:",
        "- files: 12",
        "- size: 2.9MB of 10GB",
    ]
    assert json.loads(out(cli("status", "--json")))["status"]["total"] == 9


def test_keys_are_added_listed_and_removed(cli, server):
    assert out(cli("keys", "list")) == "There were no keys found for you.\n"

    (cli.cwd / "k.pub").write_text("ssh-ed25519 AAAA me\n")
    assert "Successfully added key laptop" in out(cli("keys", "add", "k.pub", "-t", "laptop"))
    assert server.posts("/api/keys")[0][1] == {"title": "laptop", "public_key": "ssh-ed25519 AAAA me"}

    assert out(cli("keys", "generate")).startswith("Successfully added key ")
    assert (cli.spell_dir / "spell.pem").stat().st_mode & 0o777 == 0o600
    assert cli("keys", "generate").returncode == 1
    assert len(out(cli("keys", "list")).splitlines()) == 3

    assert out(cli("keys", "rm", "laptop")) == "Successfully removed key laptop.\n"
    assert cli("keys", "rm", "laptop").returncode == 1


def completed(cli, *words):
    line = ["spell", *words]
    done = cli(COMP_WORDS="\n".join(line), COMP_CWORD=str(len(line) - 1), _SPELL_COMPLETE="bash_complete")
    return [line.partition(",")[2] for line in out(done).splitlines() if line]


def test_completion_knows_commands_options_runs_labels_and_machines(cli, server):
    server.add_run(state="running", labels=["baseline"])

    assert completed(cli, "st") == ["stop", "storage", "status"]
    assert "--machine-type" in completed(cli, "run", "--")
    assert completed(cli, "logs", "") == ["1"]
    assert completed(cli, "run", "-t", "V") == ["V100"]
    assert completed(cli, "ps", "--label", "b") == ["baseline"]


def test_completion_goes_into_resources_level_by_level(cli, server):
    server.add_file(1, "model.pt", b"x")
    server.entries["runs/1"] += [
        {"path": name, "size": None, "modified_at": None, "sha256": None, "mode": None, "link": None}
        for name in ("models", "mo\x1b]52")
    ]

    assert completed(cli, "cp", "runs/1/m") == ["runs/1/model.pt", "runs/1/models/"]
    assert completed(cli, "diff", "runs/1/model.pt", "runs/1/model.") == ["runs/1/model.pt"]
    assert completed(cli, "ls", "nothing/") == []


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("run", "python", "tra"), "file"),
        (("run", "./tra"), "file"),
        (("run", "-b", "python", "--data", "tra"), "file"),
        (("cp", "runs/1", "tra"), "dir"),
    ],
)
def test_the_shell_itself_completes_local_files(cli, words, kind):
    line = ["spell", *words]
    done = cli(COMP_WORDS="\n".join(line), COMP_CWORD=str(len(line) - 1), _SPELL_COMPLETE="bash_complete")

    assert out(done) == f"{kind},{words[-1]}\n"


def test_completion_never_starts_anything_and_never_complains(local):
    assert completed(local, "logs", "") == []
    assert not local.spell_dir.exists()


def test_names_of_others_cannot_act_on_the_terminal(cli, server):
    server.add_run()
    server.runs[1]["spec"]["command"] = "a\x1b]52;c;x\x07\nb"

    assert "\x1b" not in out(cli("ps"))
    assert "\x1b" not in out(cli("info", "1"))


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["ps", "run true"])
def test_a_standard_stream_that_is_closed_changes_nothing(cli, closed, command):
    cli.repository()
    done = subprocess.run(
        ["sh", "-c", f"exec {SPELL} {command} {closed}"],
        cwd=cli.cwd,
        env=cli.env,
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert (done.returncode, err(done).count("Traceback")) == (0, 0), err(done)


def test_types_of_machines_are_listed_with_what_they_have(cli, server):
    assert out(cli("machine-types")) == (
        "TYPE           MACHINES  FREE SLOTS  ENGINES       GPUS PER RUN\n"
        "CPU (default)  1         3 of 4      docker local\n"
        "V100           1         3 of 4      docker        1 x Tesla V100\n"
    )
    listed = json.loads(out(cli("machine-types", "--json")))
    assert [kind["gpus"] for kind in listed["machine_types"]] == [0, 1]
