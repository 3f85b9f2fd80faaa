"""Where a runner on another machine finds the archive of an environment."""

from typing import Any

from spell_builder import layers
from spell_builder.builder import Builder
from spell_builder.flight import Flight
from spell_builder.keys import MACHINE, Interpreter
from spell_builder.pushes import Pushes
from spell_builder.requests import Requests
from spell_builder.sharing import TIED, Sharing
from spell_builder.stored_api import StoredRoutes
from spell_proto.environments import ArchiveAsked, ArchiveView, Python
from spell_proto.errors import ConflictError


class ArchiveRoutes(StoredRoutes):
    """See `StoredRoutes`."""

    kind = "archive"
    setting = "SPELL_SHARE_ENVIRONMENTS"

    def __init__(self, builder: Builder, requests: Requests, sharing: Sharing | None) -> None:
        super().__init__(builder, sharing)
        self._requests = requests
        self._sharing = sharing

    async def _begun(self, pushes: Pushes, key: str, asked: ArchiveAsked) -> Flight | None:
        # Also of one that is not there now: once it is built again, it is no more for this machine than before.
        made = await self._requests.by_key(key)
        if made is not None and made.interpreter is not None and made.interpreter.base.startswith(MACHINE):
            raise ConflictError(
                "environment_not_shared", f"environment {key[:12]} is on another machine: {TIED}"
            )
        return await super()._begun(pushes, key, asked)

    async def _suspect(self, key: str, damaged: str) -> None:
        if self._sharing is not None:
            await self._sharing.examine(key, damaged)

    async def _view(self, key: str, *, fetching: bool) -> dict[str, Any] | None:
        archive = None if self._sharing is None else await self._sharing.find(key, fetching=fetching)
        made = await self._requests.by_key(key)
        if archive is None or made is None:
            return None
        own = made.interpreter is None or layers.is_conda(made.resolved)
        python = None if own or made.interpreter is None else _python(made.interpreter)
        view = ArchiveView(
            digest=archive.digest,
            size=archive.size,
            content=archive.content,
            path=archive.path,
            python=python,
        )
        return view.model_dump()


def _python(about: Interpreter) -> Python:
    return Python(path=about.path, version=about.version, platform=about.platform, libc=about.libc)
