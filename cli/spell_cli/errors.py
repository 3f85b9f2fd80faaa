"""The ways a command can end, as exit codes and as errors.

SpellError (spell_proto.errors)
└── CliError              1: refused, or went wrong
    ├── ConfigError       3: ~/.spell/config or an environment variable makes no sense
    ├── CommitError       5: a commit that cannot be found
    ├── RepositoryError   6: the state of the git repository does not allow a run
    └── UnreachableError  69: no server answers
"""

from enum import IntEnum

from spell_proto.errors import SpellError


class ExitCode(IntEnum):
    """What `spell` itself exits with. A run that was followed to its end exits with its command's code."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    CONFIG = 3
    COMMIT = 5
    REPOSITORY = 6
    UNREACHABLE = 69
    RUN_FAILED = 70
    RUN_INTERRUPTED = 75
    DETACHED = 130
    RUN_KILLED = 137
    BROKEN_PIPE = 141


class CliError(SpellError):
    """Something that ends the command. `message` is the sentence, `detail` is printed below it as it is."""

    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, hint: str | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail


class ConfigError(CliError):
    """The configuration file or an environment variable makes no sense."""

    exit_code = ExitCode.CONFIG


class CommitError(CliError):
    """A commit that cannot be found."""

    exit_code = ExitCode.COMMIT


class RepositoryError(CliError):
    """The state of the git repository does not allow a run."""

    exit_code = ExitCode.REPOSITORY


class UnreachableError(CliError):
    """No server answers."""

    exit_code = ExitCode.UNREACHABLE
