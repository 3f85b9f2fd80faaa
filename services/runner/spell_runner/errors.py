"""The errors of the runner.

SpellError
└── RunnerError
    ├── AttemptError          an attempt cannot go on; carries the reason its run will fail with
    ├── DiscardedError        the files of a run were thrown away: it was killed
    ├── ForeignJournalError   storage has another journal of an attempt than this machine
    ├── TreeRefusedError      a code tree that would be written outside its directory, or makes no sense
    ├── StoreDamagedError     objects that a store should have are not there
    ├── IsolationError        the isolation that was asked for does not work on this machine
    └── EngineError           an engine does not work on this machine
        └── AwayError         it may in a while: what it needs does not answer
"""

import errno

from spell_proto.errors import SpellError
from spell_proto.state import Reason

#: What says nothing about the file that was asked for, but that we have too little for ourselves: it passes.
SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def problem(error: OSError) -> str:
    """What is wrong, without paths of the machine, which tell nobody anything."""
    return error.strerror or type(error).__name__


class RunnerError(SpellError):
    """Base of every error that the runner raises on purpose."""


class AttemptError(RunnerError):
    """An attempt cannot go on, and not because something is away for a while."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class DiscardedError(RunnerError):
    """The files of a run were thrown away, which is done to a killed run only before its end is written down."""


class ForeignJournalError(RunnerError):
    """Storage has another journal of an attempt than this machine: it can never be sealed."""


class TreeRefusedError(RunnerError):
    """A code tree that would be written outside its directory, or makes no sense."""


class StoreDamagedError(RunnerError):
    """Objects that a store should have are not there: what it holds has to come again."""


class IsolationError(RunnerError):
    """The isolation that was asked for does not work on this machine."""


class EngineError(RunnerError):
    """An engine does not work on this machine."""


class AwayError(EngineError):
    """What an engine needs does not answer; it may in a while."""
