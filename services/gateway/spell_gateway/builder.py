"""The builder as the gateway sees it: typed calls over its internal HTTP (shell)."""

from pydantic import TypeAdapter

from spell_proto.http import Caller
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import RunView, Verdict

VERDICT = TypeAdapter(Verdict)
_NOTHING: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])

#: It reads a limited part of what is on disk, which a slow disk may still take long for.
VERIFY_SECONDS_MAX = 120.0


class Builder:
    """Environments, which all owners share."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def check(self, environment: EnvironmentRequest) -> None:
        """See that an environment can be tried. What every builder can do is not worth a question.

        Raises:
            InvalidError: which part cannot be had, and what there is.
        """
        if environment.requirements is not None or environment.python is not None:
            await self._caller.call("POST", "/environments/check", _NOTHING, body=environment)

    async def verify(self, run: RunView | None) -> Verdict:
        """Whether the environment of a run, or every environment, is what it was when it was built."""
        asked = {"request": None if run is None else run.spec.environment.digest()}
        return await self._caller.call("GET", "/verify", VERDICT, params=asked, seconds=VERIFY_SECONDS_MAX)
