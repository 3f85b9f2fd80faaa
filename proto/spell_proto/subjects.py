"""Names on the bus: subjects, streams and durable consumers."""

from dataclasses import dataclass

DAYS = 24 * 3600
MIB = 1024 * 1024

EVENTS_OF_ALL_RUNS = "spell.events.run.>"
REPORTS_OF_ALL_RUNNERS = "spell.reports.runner.>"
COMMANDS_FOR_BUILDER = "spell.commands.builder"
HEARTBEATS_OF_ALL = "spell.heartbeats.*"

REPORTS_CONSUMER = "scheduler-reports"
BUILDER_CONSUMER = "builder-commands"
SCHEDULER_QUEUE = "scheduler"


def event(run_id: int, kind: str) -> str:
    """Public facts about one run."""
    return f"spell.events.run.{run_id}.{kind}"


def events_of_run(run_id: int) -> str:
    return f"spell.events.run.{run_id}.*"


def report(machine_id: str, run_id: int) -> str:
    return f"spell.reports.runner.{machine_id}.{run_id}"


def machine_commands(machine_id: str) -> str:
    """Plain messages to one machine: no stream keeps them, a heartbeat makes up for a lost one."""
    return f"spell.commands.runner.{machine_id}"


def heartbeat(machine_id: str) -> str:
    return f"spell.heartbeats.{machine_id}"


def log_tail(machine_id: str, run_id: int) -> str:
    """Live journal bytes of a run. Header `Spell-Offset` is the journal offset of the first byte."""
    return f"spell.logs.{machine_id}.{run_id}"


def log_tails_of_run(run_id: int) -> str:
    return f"spell.logs.*.{run_id}"


@dataclass(frozen=True, slots=True)
class Stream:
    """A JetStream stream as it should be. `memory` streams are lost with the server, on purpose."""

    name: str
    subjects: tuple[str, ...]
    age_seconds_max: int
    bytes_max: int
    memory: bool = False


EVENTS = Stream("EVENTS", ("spell.events.>",), 7 * DAYS, 256 * MIB)
REPORTS = Stream("REPORTS", ("spell.reports.>",), 7 * DAYS, 128 * MIB)
COMMANDS = Stream("COMMANDS", ("spell.commands.*",), 7 * DAYS, 32 * MIB)
LOGS = Stream("LOGS", ("spell.logs.>",), 120, 64 * MIB, memory=True)
STREAMS = (EVENTS, REPORTS, COMMANDS, LOGS)
