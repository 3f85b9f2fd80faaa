"""What can go wrong when an environment is made.

BuilderError
├── BuildFailedError      the request cannot be fulfilled; one sentence names the package and the reason
│   └── IndexUnreachableError   not its fault: the package index does not answer
└── MissingUvError        there is no uv on this machine
"""

from spell_proto.errors import SpellError


class BuilderError(SpellError):
    """Base of everything that goes wrong in the builder."""


class BuildFailedError(BuilderError):
    """The environment cannot be built. The message is the sentence its run fails with."""


class IndexUnreachableError(BuildFailedError):
    """The package index does not answer; the same request may work later."""


class MissingUvError(BuilderError):
    """uv is not installed."""
