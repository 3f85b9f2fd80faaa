"""The builder as the gateway sees it: typed calls over its internal HTTP (shell)."""

from pydantic import TypeAdapter

from spell_proto.http import Caller
from spell_proto.views import RunView, Verdict

VERDICT = TypeAdapter(Verdict)

#: It reads a limited part of what is on disk, which a slow disk may still take long for.
VERIFY_SECONDS_MAX = 120.0


class Builder:
    """Environments, which all owners share."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def verify(self, run: RunView | None) -> Verdict:
        """Whether the environment of a run, or every environment, is what it was when it was built."""
        asked = {"request": None if run is None else run.spec.environment.digest()}
        return await self._caller.call("GET", "/verify", VERDICT, params=asked, seconds=VERIFY_SECONDS_MAX)
