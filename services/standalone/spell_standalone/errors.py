"""What can go wrong with a stack on one machine.

StandaloneError
├── MissingError       something this machine must have is not there; the message says what to install
├── NotReadyError      a part did not start; the message says which one and where its log is
└── AlreadyRunningError  another supervisor serves this directory
"""

from pathlib import Path

from spell_proto.errors import SpellError


class StandaloneError(SpellError):
    """Base of everything that keeps a stack from starting or stopping."""


class MissingError(StandaloneError):
    """A program that the stack needs is not on this machine."""


class NotReadyError(StandaloneError):
    """A part of the stack was started and did not become ready. `log` is the file with its last words."""

    def __init__(self, message: str, *, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class AlreadyRunningError(StandaloneError):
    """Another supervisor serves this directory, and that is fine."""
