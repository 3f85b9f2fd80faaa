"""The plainest run there is, an attempt at one, and its launch: a test names only what matters to it."""

from typing import Any

from spell_proto.spec import AttemptSpec, EnvironmentRequest, RunSpec
from spell_proto.state import Intent
from spell_runner.shim.launch import Launch


def a_run(**given: Any) -> RunSpec:
    """`true` on a CPU machine, with nothing else, but for what is given."""
    plain = {
        "command": "true",
        "machine_type": "CPU",
        "environment": EnvironmentRequest(),
        "env": {},
        "code": None,
        "description": "",
        "timeout_seconds": None,
    }
    return RunSpec(**plain | given)


def an_attempt(run_id: int = 7, fence: int = 3, **given: Any) -> AttemptSpec:
    """The first attempt at a run of which this is given."""
    return AttemptSpec(
        run_id=run_id, attempt=1, fence=fence, owner_id=1, intent=Intent.RUN, spec=a_run(**given)
    )


def a_launch(**given: Any) -> Launch:
    """`true` without anything that keeps it apart."""
    plain = {
        "argv": ("true",),
        "env": {},
        "isolation": "none",
        "overlay": False,
        "lower": "/nowhere",
        "cwd": "/",
        "root": "/",
        "hidden": (),
        "read_only": (),
        "log_bytes_max": 1,
    }
    return Launch(**plain | given)
