"""An engine that starts nothing: every command is over at once, with exit code 0. It measures everything else."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from spell_proto.engines import DOCKER, LOCAL
from spell_proto.spec import AttemptSpec
from spell_proto.state import Intent
from spell_runner.directory import Directory
from spell_runner.notes import Notes
from spell_runner.outputs import Changes
from spell_runner.phases import Exit, Look, Status
from spell_runner.shim import launch
from spell_runner.workspace import Abort

_NOTHING = hashlib.sha256().hexdigest()


class NullEngine:
    """Claims attempts and writes endings down as a shim does, so that its runs survive the runner just the same."""

    isolation = "none"
    hold_seconds = 1.0
    talkative = False

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def watch(self) -> None:
        pass

    async def able(self) -> tuple[str, ...]:
        # Whatever is asked for, it does nothing of it.
        return LOCAL, DOCKER

    async def prepare(
        self,
        spec: AttemptSpec,
        directory: Directory,
        notes: Notes,
        abort: Abort,
        mounting: Callable[[], None],
    ) -> None:
        del spec, notes, abort, mounting
        launch.take(directory.path, 1, 0)

    async def start(self, directory: Directory) -> None:
        pass

    def look(self, directory: Directory, *, alive: bool) -> Look:
        del alive
        claim = launch.read(directory.base)
        if claim is None:
            return Look(Status.ABSENT)
        if claim.pid == 0:
            return Look(Status.CANCELLED)
        at = datetime.fromtimestamp(Path(directory / launch.CLAIM).stat().st_mtime, UTC)
        ended = Exit(at, 0, "exit", 0, 0, 0, _NOTHING, 0, None)
        return Look(Status.EXITED, at, ended)

    def cancel(self, directory: Directory) -> None:
        launch.take(directory.path, 0, 0)

    def end(self, directory: Directory, intent: Intent) -> None:
        pass

    def exceed(self, directory: Directory, message: str) -> None:
        pass

    def reclaim(self, directory: Directory, grace_seconds: float) -> None:
        pass

    def clear(self, directory: Directory) -> None:
        pass

    def touched(self, directory: Directory) -> bool:
        del directory
        return False

    def changes(self, directory: Directory, abort: Abort) -> Changes:
        del directory, abort
        return Changes()
