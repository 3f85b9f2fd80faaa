"""uv that sees the system packages of an environment over this machine (shell)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from spell_builder.commands import Say
from spell_builder.system import System
from spell_builder.uv import Uv


@dataclass(frozen=True, slots=True)
class OverlaidUv(Uv):
    """uv that sees the layer of an environment over this machine: what it compiles may need it."""

    system: System
    below: Path

    async def _run(
        self,
        words: Sequence[str],
        seconds: float,
        say: Say,
        *,
        stdin: str = "",
        keep: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        async with self.system.shown(self.below, words) as shown:
            return await Uv._run(  # noqa: SLF001 -- its own
                self, shown, seconds, say, stdin=stdin, keep=keep, environment=environment
            )


def over(uv: Uv, system: System, below: Path) -> OverlaidUv:
    """Uv with the layer of an environment in sight."""
    return OverlaidUv(
        **{field.name: getattr(uv, field.name) for field in fields(uv)}, system=system, below=below
    )
