"""How a run ends whose attempt did not come to its end by itself: the state, and the reason. Pure."""

from spell_proto.state import BEFORE_RUNNING, Intent, Reason, RunState

_KILLED = (RunState.KILLED, Reason.KILLED_BY_USER)
_NEVER_RAN = (RunState.KILLED, Reason.STOPPED_BEFORE_RUNNING)
_RECLAIMED = (RunState.INTERRUPTED, Reason.SPOT_RECLAIMED)


def of_failure(intent: Intent, state: RunState, reason: Reason, *, spot: bool) -> tuple[RunState, Reason]:
    """Its machine says that it failed. Before the command ran, what its user wanted comes before a notice."""
    if intent is Intent.KILL:
        return _KILLED
    # One with another boot has been taken away and given back: as if it had stayed silent.
    if reason is not Reason.SPOT_RECLAIMED and not (spot and reason is Reason.HOST_REBOOTED):
        return RunState.FAILED, reason
    return _NEVER_RAN if intent is Intent.STOP and state in BEFORE_RUNNING else _RECLAIMED


def of_kill(intent: Intent, state: RunState, *, spot: bool) -> tuple[RunState, Reason]:
    """Its machine says that it was ended and not saved."""
    if intent is Intent.RUN:
        # A spot machine had notice, of which a runner that came back in the middle of it does not know any more.
        return _RECLAIMED if spot else (RunState.FAILED, Reason.SHIM_LOST)
    return _NEVER_RAN if intent is Intent.STOP and state in BEFORE_RUNNING else _KILLED


def of_loss(intent: Intent, reason: Reason, *, spot: bool) -> tuple[RunState, Reason]:
    """Its machine is gone, or has restarted without it."""
    if intent is Intent.KILL:
        return _KILLED
    return _RECLAIMED if spot else (RunState.FAILED, reason)
