"""Settings of the scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment variables `SPELL_<NAME>`; times in seconds.

    `runs_max` is how many runs one owner may have active at once. `machine_types` are the names that are
    accepted besides those of registered machines, comma-separated; the first is the default.
    `reachable_seconds` is how long a silent machine still gets new runs, `lost_after_seconds` how long its runs
    are believed to live.
    """

    database_url: str
    nats_url: str
    listen: str
    runs_max: int = 10
    machine_types: str = "CPU"
    reachable_seconds: float = 30.0
    lost_after_seconds: float = 600.0
