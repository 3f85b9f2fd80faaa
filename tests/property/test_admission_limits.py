"""Admission never exceeds a limit, never starts a run twice, and is fair by age."""

import hypothesis.strategies as st
from hypothesis import given

from spell_scheduler.admission import Machine, Queued, admit

TYPES = st.sampled_from(["CPU", "T4"])


@st.composite
def snapshots(draw):
    """Machines with free slots, and a queue in any order; an owner's free count is the same in all its rows."""
    machines = [
        Machine(f"m{number}", "boot", False, draw(TYPES), draw(st.integers(0, 4)))
        for number in range(draw(st.integers(0, 4)))
    ]
    owners = {owner: draw(st.integers(0, 3)) for owner in range(3)}
    ids = draw(st.lists(st.integers(1, 60), unique=True, max_size=25))
    queued = []
    for run_id in ids:
        owner = draw(st.integers(0, 2))
        queued.append(Queued(run_id, owner, owners[owner], draw(TYPES)))
    return queued, machines, owners


@given(snapshots())
def test_limits_and_types_are_kept_and_nobody_fitting_is_left_behind(snapshot):
    queued, machines, owners = snapshot
    by_id = {run.run_id: run for run in queued}

    pairs = admit(queued, machines)

    started = [run_id for run_id, _ in pairs]
    assert len(started) == len(set(started))
    for machine in machines:
        assert sum(given.id == machine.id for _, given in pairs) <= machine.free
    for owner, free in owners.items():
        assert sum(by_id[run_id].owner_id == owner for run_id in started) <= free
    assert all(by_id[run_id].machine_type == machine.machine_type for run_id, machine in pairs)
    for run in queued:
        if run.run_id in started:
            continue
        owner_full = sum(by_id[run_id].owner_id == run.owner_id for run_id in started) >= run.owner_free
        slots = sum(machine.free for machine in machines if machine.machine_type == run.machine_type)
        used = sum(by_id[run_id].machine_type == run.machine_type for run_id in started)
        assert owner_full or used >= slots, "a run that could have started was left waiting"
        # Whoever took its place is older.
        rivals = [by_id[run_id] for run_id in started if by_id[run_id].machine_type == run.machine_type]
        if not owner_full:
            assert all(rival.run_id < run.run_id for rival in rivals)
