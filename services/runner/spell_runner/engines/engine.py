"""What every engine can do with the command of an attempt."""

from collections.abc import Callable
from typing import Protocol

from spell_proto.spec import AttemptSpec
from spell_proto.state import Intent
from spell_runner.directory import Directory
from spell_runner.notes import Notes
from spell_runner.outputs import Changes
from spell_runner.phases import Look
from spell_runner.workspace import Abort


class Engine(Protocol):
    """Everything but `look` may be called again after a crash of the runner, and does no harm then.

    `isolation` is what runs are told about it. `hold_seconds` is how long steps may wait for the next ones.
    """

    isolation: str
    hold_seconds: float
    talkative: bool

    async def open(self) -> None:
        """Get ready to start commands; what was started before lives on."""
        ...

    async def close(self) -> None:
        """Let go; what was started lives on."""
        ...

    async def watch(self) -> None:
        """Look after what commands need, for as long as the engine is open; it may return before."""
        ...

    async def able(self) -> tuple[str, ...]:
        """The engines that can run commands right now. Asked with every heartbeat, so soon answered."""
        ...

    async def prepare(
        self,
        spec: AttemptSpec,
        directory: Directory,
        notes: Notes,
        abort: Abort,
        mounting: Callable[[], None],
    ) -> None:
        """Get ready everything the command needs. `mounting` is called before resources are mounted, if there are any.

        Raises:
            AttemptError: it cannot be had.
        """
        ...

    async def start(self, directory: Directory) -> None:
        """Have the command started, at most once however often this is called. Does not wait for it."""
        ...

    def look(self, directory: Directory, *, alive: bool) -> Look:
        """What is known of the command. Without `alive`, what watches it is taken to live."""
        ...

    def cancel(self, directory: Directory) -> None:
        """See to it that the command never starts, unless it is too late for that."""
        ...

    def end(self, directory: Directory, intent: Intent) -> None:
        """Stop or kill the command. Harmless when repeated, or when it is over."""
        ...

    def exceed(self, directory: Directory, message: str) -> None:
        """End the command, as it has written more than it may: a sentence says how much. Harmless as `end` is."""
        ...

    def reclaim(self, directory: Directory, grace_seconds: float) -> None:
        """Stop the command within `grace_seconds`, as its machine is taken away. Harmless as `end` is.

        One that is stopped already has no more time than that either.
        """
        ...

    def clear(self, directory: Directory) -> None:
        """Kill what a lost command may have left behind."""
        ...

    def touched(self, directory: Directory) -> bool:
        """Whether the command can have made anything at all. Quick."""
        ...

    def changes(self, directory: Directory, abort: Abort) -> Changes:
        """What the command has made. Slow: to be called in a thread."""
        ...
