"""Admission never exceeds a limit, never starts a run twice, and is fair by age."""

import hypothesis.strategies as st
from hypothesis import given

from spell_scheduler.admission import Machine, Queued, admit

TYPES = st.sampled_from(["CPU", "T4"])
ENGINES = st.frozensets(st.sampled_from(["local", "docker", "other"]))


@st.composite
def snapshots(draw):
    """Machines with free slots, and a queue in any order; an owner's free count is the same in all its rows."""
    machines = [
        Machine(
            f"m{number}",
            "boot",
            True,
            draw(TYPES),
            draw(st.integers(0, 4)),
            draw(ENGINES),
            draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    owners = {owner: draw(st.integers(0, 3)) for owner in range(3)}
    ids = draw(st.lists(st.integers(1, 60), unique=True, max_size=25))
    queued = []
    for run_id in ids:
        owner = draw(st.integers(0, 2))
        queued.append(Queued(run_id, owner, owners[owner], draw(TYPES), draw(ENGINES)))
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
    assert all(_fits(by_id[run_id], machine) for run_id, machine in pairs)
    for run in queued:
        if run.run_id in started:
            continue
        owner_full = sum(by_id[run_id].owner_id == run.owner_id for run_id in started) >= run.owner_free
        fitting = {machine.id: machine.free for machine in machines if _fits(run, machine)}
        # Whoever took its place is older.
        rivals = [by_id[run_id] for run_id, given in pairs if given.id in fitting]
        assert owner_full or len(rivals) >= sum(fitting.values()), (
            "a run that could have started was left waiting"
        )
        if not owner_full:
            assert all(rival.run_id < run.run_id for rival in rivals)


def test_a_run_that_needs_nothing_special_leaves_the_special_machine_to_those_who_do():
    plain = Machine("plain", "boot", False, "CPU", 1, frozenset({"local"}))
    special = Machine("special", "boot", False, "CPU", 2, frozenset({"local", "docker"}))
    queued = [
        Queued(run_id, 1, 9, "CPU", frozenset(needs))
        for run_id, needs in enumerate([(), ("docker",), ("local",)])
    ]

    placed = {run_id: machine.id for run_id, machine in admit(queued, [special, plain])}

    assert placed == {0: "plain", 1: "special", 2: "special"}


def _fits(run, machine):
    """Written anew: any engine will do where it does not matter which, but there must be one, on a machine that stays."""
    has = run.needs & machine.engines if run.needs else machine.engines
    return machine.machine_type == run.machine_type and len(has) > 0 and not machine.reclaimed
