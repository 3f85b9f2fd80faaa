"""Durations, sizes, dates, tables, and how runs are listed."""

from datetime import UTC, datetime

import pytest

from spell_cli.run_lists import info_rows, plan_rows, ps_table, snapshot_text, status_text
from spell_cli.tables import pairs, safe, table
from spell_cli.times import go_duration, human_size, listing_date, relative

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (6.870837, "6.870837s"),
        (36.630201, "36.630201s"),
        (67.057677, "1m7.057677s"),
        (160594.553059, "44h36m34.553059s"),
        (13, "13s"),
        (3600, "1h0m0s"),
        (60.5, "1m0.5s"),
        (0.25, "250ms"),
        (0.0125, "12.5ms"),
        (0.000005, "5µs"),
        (0, "0s"),
        (-1, "0s"),
        (59.9999999, "1m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    assert go_duration(seconds) == text


@pytest.mark.parametrize(
    ("then", "text"),
    [
        ("2026-11-22T11:59:59+00:00", "1 second ago"),
        ("2026-11-22T12:00:05Z", "just now"),
        ("2026-11-22T11:59:00Z", "1 minute ago"),
        ("2026-11-22T11:15:00Z", "45 minutes ago"),
        ("2026-11-22T09:00:00Z", "3 hours ago"),
        ("2026-11-20T11:00:00Z", "2 days ago"),
    ],
)
def test_moments_are_told_relative_to_now(then, text):
    assert relative(then, NOW) == text


def test_after_two_weeks_a_moment_is_a_date():
    assert relative("2026-05-06T12:00:00Z", NOW) == "2026-05-06"


def test_listing_dates_show_the_year_when_it_is_another_one():
    assert listing_date("2024-04-27T12:50:00Z", NOW) == "Apr 27 2024"
    assert listing_date("2026-04-27T12:50:00Z", NOW).startswith("Apr 27 ")
    assert listing_date(None, NOW) == "-"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (512, "512"), (1536, "1.5K"), (140 << 20, "140M"), (1 << 30, "1.0G"), (1023 << 10, "1023K")],
)
def test_sizes_have_units(size, text):
    assert human_size(size) == text


def test_columns_are_two_spaces_apart_and_lines_end_without_spaces():
    assert table(["id", "name"], [["1", "x"], ["10", ""]]) == ["ID  NAME", "1   x", "10"]


def test_colour_does_not_shift_columns():
    lines = table(
        ["A", "B"], [["x", "y"]], lambda header, cell: f"<{cell}>" if header == "A" and cell == "x" else cell
    )

    assert lines == ["A  B", "<x>  y"]


def test_what_a_terminal_would_obey_is_shown_instead():
    assert safe("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"


def test_a_value_of_several_lines_stays_under_itself():
    assert pairs([("Command", "a\nb"), ("X", "y")]) == ["Command  a", "         b", "X        y"]


def a_run(run_id=9, state="running", **given):
    code = {"repository": "proj", "commit": "c0ffee" + "0" * 34, "snapshot": None}
    code |= {"root_directory": "proj", "cwd": "sub"}
    spec = {
        "command": "python train.py --epochs 100",
        "machine_type": "CPU",
        "environment": {
            "pip": ["six"],
            "requirements": None,
            "conda": None,
            "constraints": None,
            "python": None,
            "latest": False,
            "key": None,
        },
        "env": {"A": ""},
        "code": code,
        "github": None,
        "description": "First\nsecond",
        "timeout_seconds": 5400,
        "docker_image": None,
    }
    return {
        "id": run_id,
        "state": state,
        "intent": "run",
        "reason": None,
        "message": None,
        "exit_code": None,
        "queue_reason": None,
        "creator": "alice",
        "labels": [],
        "spec": spec,
        "machine_id": "m1",
        "machine_reachable": True,
        "created_at": "2026-11-22T11:50:00Z",
        "started_at": "2026-11-22T11:58:57Z" if state != "requested" else None,
        "ended_at": None,
        "run_seconds": None,
        "saved_files": None,
        "saved_bytes": None,
    } | given


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"state": "requested"}, "Queued"),
        ({"state": "requested", "queue_reason": "no_slot"}, "Queued"),
        ({"state": "requested", "queue_reason": "owner_limit"}, "Requested"),
        ({"state": "running"}, "*Running"),
        ({"state": "running", "intent": "stop"}, "*Stopping"),
        ({"state": "saving", "intent": "kill"}, "*Killing"),
        ({"state": "saving", "exit_code": 0}, "*Saving (0)"),
        ({"state": "complete", "exit_code": 66}, "Complete (66)"),
        ({"state": "failed"}, "Failed"),
        ({"state": "stopped", "intent": "stop"}, "Stopped"),
    ],
)
def test_the_status_column(given, text):
    assert status_text(a_run(**given)) == text


def test_ps_is_short_by_default():
    headers, rows = ps_table([a_run()], verbose=False, trunc=True, now=NOW)

    assert headers == ["ID", "REPOSITORY", "COMMAND", "STATUS", "CREATOR"]
    assert rows == [["9", "proj", "python train.py --epochs …", "*Running", "alice"]]


def test_ps_has_more_columns_when_verbose():
    headers, rows = ps_table([a_run(labels=["x", "y"])], verbose=True, trunc=False, now=NOW)

    assert headers == [
        "ID",
        "REPOSITORY",
        "COMMAND",
        "COMMIT",
        "STATUS",
        "CREATOR",
        "LABELS",
        "MACHINE",
        "DESCRIPTION",
    ]
    assert rows == [
        [
            "9",
            "proj",
            "python train.py --epochs 100",
            "c0ffee00",
            "*Running [1m3s]",
            "alice",
            "x, y",
            "CPU",
            "First",
        ]
    ]


def test_ps_says_how_long_ago_a_run_ended():
    run = a_run(state="complete", exit_code=0, ended_at="2026-11-22T09:00:00Z")

    assert ps_table([run], verbose=True, trunc=True, now=NOW)[1][0][4] == "Complete (0) -- 3 hours ago"


def test_ps_of_a_run_without_code_has_empty_cells():
    run = a_run()
    run["spec"] |= {"code": None}

    assert ps_table([run], verbose=True, trunc=True, now=NOW)[1][0][1] == ""


def test_changes_on_top_of_a_commit_are_marked():
    run = a_run()
    run["spec"]["code"] |= {"commit": "1b451cbb" * 5, "snapshot": "a" * 40}

    assert ps_table([run], verbose=True, trunc=True, now=NOW)[1][0][3] == "1b451cbb+"
    assert dict(info_rows(run, NOW))["Git Commit"] == "1b451cbb" * 5 + " + uncommitted changes"


def test_a_run_of_fetched_code_says_where_it_is_from_before_and_after_it_is_fetched():
    run = a_run()
    fetched = run["spec"]["code"] | {"commit": "1b451cbb" * 5, "repository": "r"}
    run["spec"] |= {"code": None, "github": {"url": "https://github.com/o/r.git", "ref": "main"}}

    assert ps_table([run], verbose=True, trunc=True, now=NOW)[1][0][1:4:2] == ["r", "main"]
    rows = dict(info_rows(run, NOW))
    assert (rows["Repository"], rows["GitHub URL"]) == ("r", "https://github.com/o/r.git at main")
    assert "Git Commit" not in rows
    run["spec"] |= {"code": fetched, "github": {"url": "https://github.com/o/r.git", "ref": None}}
    assert ps_table([run], verbose=True, trunc=True, now=NOW)[1][0][1:4:2] == ["r", "1b451cbb"]
    rows = dict(info_rows(run, NOW))
    assert (rows["GitHub URL"], rows["Git Commit"]) == ("https://github.com/o/r.git", "1b451cbb" * 5)


def test_info_has_what_there_is_in_its_order():
    run = a_run(
        state="failed",
        reason="oom",
        message="1 GiB was not enough",
        ended_at="2026-11-22T11:59:57Z",
        run_seconds=60.5,
        labels=["x"],
        saved_files=1,
        saved_bytes=2048,
    )
    rows = dict(info_rows(run, NOW))

    assert list(rows) == [
        "Repository",
        "Git Commit",
        "Status",
        "Reason",
        "Command",
        "Directory",
        "Description",
        "Creator",
        "Machine Type",
        "Machine",
        "Request Time",
        "Start Time",
        "End Time",
        "Duration",
        "Time Limit",
        "Labels",
        "Environment Vars",
        "Pip Packages",
        "Saved Files",
    ]
    assert rows["Status"] == "failed"
    assert rows["Reason"] == "it ran out of memory: 1 GiB was not enough"
    assert rows["Duration"] == "1m0.5s"
    assert rows["Time Limit"] == "1h30m0s"
    assert rows["Saved Files"] == "1 file, 2.0K, as runs/9"


def test_info_names_the_framework_of_a_run_that_is_an_image():
    run = a_run()
    run["spec"] |= {"docker_image": "docker.io/bvlc/caffe:cpu", "framework": "caffe"}

    assert dict(info_rows(run, NOW))["Framework"] == "caffe"


def test_info_says_what_a_run_waits_for():
    rows = dict(info_rows(a_run(state="requested", queue_reason="no_machine", machine_id=None), NOW))

    assert rows["Waiting For"] == "no machine of this type is registered"


def test_info_says_when_a_machine_is_silent():
    rows = dict(info_rows(a_run(machine_reachable=False), NOW))

    assert "does not answer" in rows["Machine"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ({"machines": 1, "engines": ["docker", "local"]}, "T4: 3 of 4 slots free, docker local"),
        (
            {"machines": 1, "engines": ["docker"], "gpus": 2, "gpu_models": ["NVIDIA T4"]},
            "T4: 3 of 4 slots free, docker, 2 x NVIDIA T4",
        ),
        ({"machines": 1}, "T4: 3 of 4 slots free"),
        ({"machines": 0}, "T4: no machine of this type answers right now"),
    ],
)
def test_a_plan_says_what_a_run_gets_on_its_machine(kind, place):
    environment = {"state": "new", "key": None, "python": "3.12", "packages": []}
    machine = {"name": "T4", "slots": 4, "slots_used": 1, **kind}
    plan = {"environment": environment, "machine": machine, "code_known": None}

    assert dict(plan_rows({"command": "true"}, plan, changes=False))["Machine Type"] == place


def test_what_is_to_be_known_of_a_snapshot_stands_below_it():
    snapshot = {
        "number": 1,
        "asked": 0,
        "manifest": "x",
        "files": 2,
        "bytes": 9,
        "at": "2026-11-22T11:59:57Z",
    }
    run = a_run(snapshots=[snapshot | {"notes": ["'/spell/a' changed during save"]}])

    lines = dict(info_rows(run, NOW))["Snapshots"].splitlines()

    assert lines[0].startswith("runs/9@1: ")
    assert lines[1:] == ["  '/spell/a' changed during save"]


@pytest.mark.parametrize(
    ("files", "first"),
    [(2, "2 files, 9 bytes, as runs/9; 1 changed while saved"), (0, "none")],
)
def test_what_is_to_be_known_of_saved_files_stands_below_them(files, first):
    note = "Not saved: '/spell/pipe' (neither a file nor a link)"
    run = a_run(saved_files=files, saved_bytes=9, saved_changed=1, save_notes=[note])

    assert dict(info_rows(run, NOW))["Saved Files"].splitlines() == [first, f"  {note}"]


def test_nothing_that_was_archived_with_a_run_is_offered():
    snapshot = {"number": 1, "manifest": "x", "files": 2, "bytes": 9, "at": "2026-11-22T11:59:57Z"}
    run = a_run(snapshots=[snapshot], saved_files=2, saved_bytes=9, archived_at="2026-11-22T11:59:59Z")

    rows = dict(info_rows(run, NOW))

    assert "Snapshots" not in rows
    assert rows["Saved Files"] == "2 files, 9 bytes"
    assert "Archived" in rows


def test_links_alone_are_no_files_but_something():
    run = a_run(saved_files=0, saved_bytes=0, manifest="x")

    assert dict(info_rows(run, NOW))["Saved Files"] == "0 files, 0 bytes, as runs/9"


@pytest.mark.parametrize(("size", "shown"), [(1, "1 byte"), (10, "10 bytes"), (1024, "1.0K")])
def test_a_size_that_stands_between_words_says_of_what_it_is(size, shown):
    snapshot = {
        "number": 1,
        "asked": 0,
        "manifest": "x",
        "files": 2,
        "bytes": size,
        "at": "2026-11-22T11:59:57Z",
    }

    assert dict(info_rows(a_run(saved_files=2, saved_bytes=size), NOW))["Saved Files"] == (
        f"2 files, {shown}, as runs/9"
    )
    assert snapshot_text(9, snapshot).startswith(f"runs/9@1: 2 files, {shown}, ")
