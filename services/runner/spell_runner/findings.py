"""What an attempt has found out on its way, as steps: from the files in its directory, each told once (shell)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from spell_proto.engines import DOCKER, LOCAL
from spell_proto.events import CodeFetched, CommandStarted, ImagePinned, Step
from spell_runner.directory import Directory
from spell_runner.shim.launch import LAUNCH, Launch


def code(directory: Directory, told: Sequence[Step]) -> tuple[Step, ...]:
    """What the URL turned out to be, and only if it was this attempt that found out."""
    found = directory.code()
    if found is None or any(isinstance(step, CodeFetched) for step in told):
        return ()
    fetched = CodeFetched(
        at=datetime.now(UTC),
        repository_id=found.repository_id,
        repository=found.repository,
        commit=found.commit,
        tree=found.tree,
    )
    return (fetched,)


def image(directory: Directory, told: Sequence[Step]) -> tuple[Step, ...]:
    """Which image the name stood for, before anything runs in it."""
    if any(isinstance(step, ImagePinned) for step in told):
        return ()
    container = _launch(directory).container
    if container is None or not container.pinned:
        return ()
    return (ImagePinned(at=datetime.now(UTC), image=container.pinned),)


def with_place(directory: Directory, step: Step) -> Step:
    """That a command has started, with what and on which GPUs."""
    if not isinstance(step, CommandStarted) or not Path(directory / LAUNCH).exists():
        return step
    told = _launch(directory)
    engine = LOCAL if told.container is None else DOCKER
    return step.model_copy(update={"engine": engine, "gpus": told.gpus})


def _launch(directory: Directory) -> Launch:
    return Launch.decode(Path(directory / LAUNCH).read_bytes())
