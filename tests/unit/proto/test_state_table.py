"""The state table: total, with absorbing ends, and every end can be reached."""

import pytest

from spell_proto.errors import IllegalTransitionError
from spell_proto.state import (
    ACTIVE,
    FINAL,
    MEANING,
    REASON_PHASE,
    REASON_TEXT,
    TRANSITIONS,
    Intent,
    Reason,
    RunState,
    check_transition,
    harder,
)


def test_every_state_has_a_row_and_a_meaning():
    assert set(TRANSITIONS) == {None, *RunState}
    assert set(MEANING) == set(RunState)


def test_final_states_absorb():
    assert {"complete", "stopped", "killed", "failed", "interrupted"} == FINAL
    assert all(not TRANSITIONS[state] for state in FINAL)


def test_every_state_can_be_reached_and_can_end():
    reached = set()
    todo = [None]
    while todo:
        for after in TRANSITIONS[todo.pop()]:
            if after not in reached:
                reached.add(after)
                todo.append(after)

    assert reached == set(RunState)
    assert all(TRANSITIONS[state] & FINAL for state in ACTIVE | {RunState.REQUESTED})


@pytest.mark.parametrize("before", [None, *RunState])
@pytest.mark.parametrize("after", list(RunState))
def test_check_transition_agrees_with_the_table(before, after):
    if after in TRANSITIONS[before]:
        check_transition(before, after)
    else:
        with pytest.raises(IllegalTransitionError, match=f"to {after}"):
            check_transition(before, after)


def test_kill_beats_stop_beats_run():
    assert harder(Intent.RUN, Intent.STOP) is Intent.STOP
    assert harder(Intent.KILL, Intent.STOP) is Intent.KILL
    assert harder(Intent.STOP, Intent.STOP) is Intent.STOP


def test_every_reason_has_a_phase_and_a_text():
    assert set(REASON_PHASE) == set(REASON_TEXT) == set(Reason)
