"""What the records of a run look like, in both forms, and what the command line exits with."""

import json

import pytest

from spell_cli.render import Line, Output, Renderer, Settle, Spin, exit_code_text, run_exit_code
from spell_proto.journal import Record, RecordKind
from spell_proto.state import FINAL, RunState


def output(data, *, to_stderr=False):
    return Record(RecordKind.STDERR if to_stderr else RecordKind.STDOUT, 0, data)


def record(kind, /, **members):
    return Record(kind, 0, json.dumps(members).encode())


def note(text, level="info", important=False):
    return record(RecordKind.NOTE, level=level, text=text, important=important)


def phase(state, text=None):
    return record(RecordKind.PHASE, phase=state, text=text if text is not None else f"Run is {state}")


def requested(version=1):
    text = "Run created -- waiting for a CPU machine."
    return record(RecordKind.STATE, kind="moved", version=version, after="requested", intent="run", text=text)


def a_run(state="complete", **given):
    return {
        "id": 7,
        "state": state,
        "intent": "run",
        "reason": None,
        "message": None,
        "exit_code": 0 if state == "complete" else None,
        "run_seconds": 6.870837,
        "queue_reason": None,
    } | given


def played(records, run=None, *, spinners):
    renderer = Renderer(7, spinners=spinners)
    actions = [action for one in records for action in renderer.record(one)]
    return actions + (renderer.done(run) if run is not None else [])


WHOLE = [
    requested(),
    phase("building"),
    note("Machine acquired -- commencing run"),
    note("Retrieving cached environment..."),
    phase("running"),
    output(b"Hello World\n"),
    phase("saving"),
    note("No modified or new files found"),
    phase("pushing"),
]


def settled(actions):
    return [action for action in actions if not isinstance(action, Spin)]


def test_on_a_terminal_a_phase_is_one_line_that_gets_done():
    actions = played(WHOLE, a_run(), spinners=True)

    assert settled(actions) == [
        Settle("✨", "Machine_Requested… done"),
        Settle("✨", "Building… done"),
        Line("✨", "Run is running"),
        Output(False, b"Hello World\n"),
        Settle("✨", "Saving… done"),
        Settle("✨", "Pushing… done"),
        Line("🎉", "Total run time: 6.870837s"),
        Line("🎉", "Run 7 complete"),
    ]


def test_on_a_terminal_the_latest_message_stands_behind_the_phase():
    actions = played(WHOLE[:4], spinners=True)

    assert [action for action in actions if isinstance(action, Spin)] == [
        Spin("Machine_Requested", "Run created -- waiting for a CPU machine."),
        Spin("Building", ""),
        Spin("Building", "Machine acquired -- commencing run"),
        Spin("Building", "Retrieving cached environment..."),
    ]


def test_elsewhere_every_entry_is_a_line():
    actions = played(WHOLE, a_run(), spinners=False)

    assert actions == [
        Line("✨", "Run created -- waiting for a CPU machine."),
        Line("✨", "Run is building"),
        Line("", "Machine acquired -- commencing run"),
        Line("", "Retrieving cached environment..."),
        Line("✨", "Run is running"),
        Output(False, b"Hello World\n"),
        Line("✨", "Run is saving"),
        Line("", "No modified or new files found"),
        Line("✨", "Run is pushing"),
        Line("🎉", "Total run time: 6.870837s"),
        Line("🎉", "Run 7 complete"),
    ]


def test_mounting_is_shown_when_something_is_mounted():
    actions = played([requested(), phase("building"), phase("mounting"), phase("running")], spinners=True)

    assert Settle("✨", "Mounting… done") in actions


def test_a_state_that_comes_late_or_twice_changes_nothing():
    late = record(
        RecordKind.STATE, kind="moved", version=2, after="building", intent="run", text="Run is building"
    )
    actions = played(
        [requested(), phase("building"), phase("running"), late, phase("building")], spinners=False
    )

    assert [action.text for action in actions] == [
        "Run created -- waiting for a CPU machine.",
        "Run is building",
        "Run is running",
    ]


def test_states_of_the_scheduler_do_not_run_ahead_of_the_journal():
    ahead = record(
        RecordKind.STATE, kind="moved", version=3, after="running", intent="run", text="Run is running"
    )
    actions = played([requested(), ahead, phase("building"), note("Machine acquired")], spinners=False)

    assert [action.text for action in actions][1:] == ["Run is building", "Machine acquired"]


def test_output_keeps_its_stream_and_its_bytes():
    raw = b"\x1b[31mred\xff\x00\r\n"
    actions = played([phase("running"), output(raw, to_stderr=True)], spinners=False)

    assert actions[-1] == Output(True, raw)


def test_a_stop_is_mentioned():
    asked = record(
        RecordKind.STATE,
        kind="intent",
        version=4,
        after="running",
        intent="stop",
        text="Run is being stopped",
    )

    assert played([asked], spinners=True) == [Line("💫", "Run is being stopped")]


def test_important_notes_stand_out():
    assert played([note("Heads up", important=True)], spinners=True) == [Line("💫", "Heads up")]


@pytest.mark.parametrize("spinners", [True, False])
def test_what_was_not_saved_stays_on_the_screen(spinners):
    text = "Not saved: model.pt: the disk is full"
    actions = played([phase("saving"), note(text, important=True), note("more")], spinners=spinners)

    assert Line("💫", text) in actions


def test_output_that_was_not_kept_is_mentioned():
    gap = record(RecordKind.GAP, stdout_bytes=10, stderr_bytes=5)

    assert "15 bytes" in played([gap], spinners=False)[0].text


@pytest.mark.parametrize(
    ("state", "emoji"),
    [("complete", "🎉"), ("stopped", "✋"), ("killed", "💀"), ("failed", "💥"), ("interrupted", "✋")],
)
def test_every_end_has_its_line(state, emoji):
    assert played([], a_run(state), spinners=False)[-1] == Line(emoji, f"Run 7 {state}")


def test_every_final_state_has_an_end():
    assert {state for state in RunState if state in FINAL} == {
        RunState(name) for name in ("complete", "stopped", "killed", "failed", "interrupted")
    }


def test_a_failed_run_says_why_before_its_last_line():
    run = a_run(
        "failed", reason="build_failed", message="pip: no matching distribution for nosuch", run_seconds=None
    )
    actions = played([requested(), phase("building"), note("boom", level="error")], run, spinners=True)

    assert settled(actions)[1:] == [
        Line("✖", "boom"),
        Settle("✖", "Building… failed"),
        Line("💥", "pip: no matching distribution for nosuch"),
        Line("💥", "Run 7 failed"),
        Line("ℹ️ ", "Use 'spell logs 7 --verbose' to examine cause of error."),
    ]


def test_what_was_just_said_is_not_said_again_at_the_end():
    run = a_run("failed", reason="build_failed", message="pip: no such thing", run_seconds=None)
    records = [requested(), phase("building"), note("pip: no such thing", level="error", important=True)]

    assert [action.text for action in settled(played(records, run, spinners=True))][1:4] == [
        "pip: no such thing",
        "Building… failed",
        "Run 7 failed",
    ]


@pytest.mark.parametrize(("state", "reason"), [("stopped", "stopped_by_user"), ("killed", "killed_by_user")])
def test_a_user_is_not_told_what_the_user_did(state, reason):
    actions = played([], a_run(state, reason=reason, message="stopped by its user"), spinners=False)

    assert [action.text for action in actions] == ["Total run time: 6.870837s", f"Run 7 {state}"]


def test_a_reason_without_a_message_is_put_into_words():
    actions = played([], a_run("stopped", reason="timeout"), spinners=False)

    assert actions[0] == Line("✋", "Run 7: its time limit was reached")


def test_a_command_that_failed_says_so_before_the_end():
    actions = played([], a_run(exit_code=66), spinners=False)

    assert [action.text for action in actions] == [
        "The command ended with exit code 66",
        "Total run time: 6.870837s",
        "Run 7 complete",
    ]


def test_a_signal_is_named():
    assert exit_code_text(137) == "exit code 137 (SIGKILL)"
    assert exit_code_text(-11) == "exit code -11 (SIGSEGV)"
    assert exit_code_text(66) == "exit code 66"
    assert exit_code_text(255) == "exit code 255"


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (a_run(exit_code=0), 0),
        (a_run(exit_code=66), 66),
        (a_run(exit_code=143), 143),
        (a_run(exit_code=-15), 143),
        (a_run("failed", exit_code=1), 70),
        (a_run("interrupted"), 75),
        (a_run("killed"), 137),
        (a_run("stopped", exit_code=143), 0),
    ],
)
def test_the_exit_code_tells_how_a_run_ended(run, code):
    assert run_exit_code(run) == code


def test_leaving_in_the_middle_ends_the_spinner_without_a_claim():
    renderer = Renderer(7, spinners=True)
    renderer.record(requested())

    assert renderer.leave() == [Settle("✨", "Machine_Requested…")]
    assert renderer.leave() == []


@pytest.mark.parametrize("reason", ["owner_limit", "no_machine", "no_slot"])
def test_a_run_that_waits_says_what_for(reason):
    waiting = a_run("requested", queue_reason=reason)

    assert isinstance(Renderer(7, spinners=True).queued(waiting)[0], Spin)
    assert isinstance(Renderer(7, spinners=False).queued(waiting)[0], Line)
    assert Renderer(7, spinners=True).queued(a_run("building")) == []
