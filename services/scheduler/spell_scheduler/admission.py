"""Who may start now: the owner's limit, a free slot on a machine of the right type that can run it, oldest first.

Pure. The snapshot it decides over is read, and its answer written, under the one admission lock, so that no
committed instant ever shows more runs than a limit or a machine allows.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that answers, with the slots no run holds, and the engines that can run commands there now.

    One that is `reclaimed` is about to be taken away: it gets no more runs.
    """

    id: str
    boot_id: str
    spot: bool
    machine_type: str
    free: int
    engines: frozenset[str]
    reclaimed: bool = False

    def can_run(self, needs: frozenset[str]) -> bool:
        """Whether it stays and has one of these engines; any, where it does not matter which."""
        able = self.engines & needs if needs else self.engines
        return bool(able) and not self.reclaimed


@dataclass(frozen=True, slots=True)
class Queued:
    """A requested run. `owner_free` is how many more runs its owner may have active, `needs` the engines of which
    one must be there; none where it does not matter which.
    """

    run_id: int
    owner_id: int
    owner_free: int
    machine_type: str
    needs: frozenset[str] = frozenset()


def admit(queued: Iterable[Queued], machines: Iterable[Machine]) -> list[tuple[int, Machine]]:
    """Pairs of run id and machine, oldest run first. An owner at the limit is passed over, not waited for.

    Among machines of a type the one that can do the least else is taken, so that what only others can do is left free for
    those who need it; among equals the one with the most free slots, so that load spreads.
    """
    by_type: dict[str, dict[str, Machine]] = {}
    free: dict[str, int] = {}
    for machine in machines:
        by_type.setdefault(machine.machine_type, {})[machine.id] = machine
        free[machine.id] = machine.free
    owner_free: dict[int, int] = {}
    admitted: list[tuple[int, Machine]] = []
    for run in sorted(queued, key=lambda candidate: candidate.run_id):
        left = owner_free.setdefault(run.owner_id, run.owner_free)
        fitting = [
            machine
            for machine in by_type.get(run.machine_type, {}).values()
            if free[machine.id] > 0 and machine.can_run(run.needs)
        ]
        if left <= 0 or not fitting:
            continue
        best = max(fitting, key=lambda machine: (-len(machine.engines), free[machine.id], machine.id))
        owner_free[run.owner_id] = left - 1
        free[best.id] -= 1
        admitted.append((run.run_id, best))
    return admitted
