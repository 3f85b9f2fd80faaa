"""What can go wrong when an environment is made.

BuilderError
├── BuildFailedError      the request cannot be fulfilled; one sentence names the package and the reason
│   └── IndexUnreachableError   not its fault: the package index does not answer
├── PushError             an environment could not be brought to the shared cache
└── MissingUvError        there is no uv on this machine
"""

from spell_proto.errors import SpellError


class BuilderError(SpellError):
    """Base of everything that goes wrong in the builder."""


class BuildFailedError(BuilderError):
    """The environment cannot be built. The message is the sentence its run fails with; `package` is the one whose
    fault it is, where one can be named; `output` what the program wrote that failed.
    """

    def __init__(self, message: str, package: str | None = None, output: str = "") -> None:
        super().__init__(message)
        self.package = package
        self.output = output


class IndexUnreachableError(BuildFailedError):
    """The package index does not answer; the same request may work later."""


class PushError(BuilderError):
    """An environment could not be brought to the shared cache; `passing` where it may well be the next time."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class MissingUvError(BuilderError):
    """uv is not installed."""
