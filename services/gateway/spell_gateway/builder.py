"""The builder as the gateway sees it: typed calls over its internal HTTP (shell)."""

from pydantic import TypeAdapter

from spell_proto.engines import Engine
from spell_proto.environments import (
    CheckView,
    EnvironmentDetail,
    EnvironmentList,
    FrameworkList,
    PlanView,
    Removed,
    UseAsked,
    UseView,
)
from spell_proto.http import Caller
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import RunView, Verdict

VERDICT = TypeAdapter(Verdict)
_PLAN = TypeAdapter(PlanView)
_LIST = TypeAdapter(EnvironmentList)
_DETAIL = TypeAdapter(EnvironmentDetail)
_USE = TypeAdapter(UseView)
_REMOVED = TypeAdapter(Removed)
_BARE = EnvironmentRequest()
_CHECK = TypeAdapter(CheckView)
_FRAMEWORKS = TypeAdapter(FrameworkList)
_POSSIBLE = CheckView()

#: It reads a limited part of what is on disk, which a slow disk may still take long for.
VERIFY_SECONDS_MAX = 120.0
#: An environment is tens of thousands of files.
REMOVE_SECONDS_MAX = 600.0


class Builder:
    """Environments, which all owners share."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def check(self, environment: EnvironmentRequest, engine: Engine) -> CheckView:
        """See that an environment can be tried. What every builder can do is not worth a question.

        Raises:
            InvalidError: which part cannot be had, and what there is.
        """
        if environment.model_copy(update={"pip": (), "latest": False}) == _BARE:
            return _POSSIBLE
        asked = {"engine": engine}
        return await self._caller.call("POST", "/environments/check", _CHECK, params=asked, body=environment)

    async def frameworks(self) -> FrameworkList:
        """All that `--framework` takes."""
        return await self._caller.call("GET", "/frameworks", _FRAMEWORKS)

    async def plan(self, environment: EnvironmentRequest, engine: Engine) -> PlanView:
        """What an environment would take."""
        asked = {"engine": engine}
        return await self._caller.call("POST", "/environments/plan", _PLAN, params=asked, body=environment)

    async def listed(self) -> EnvironmentList:
        """All that are on disk."""
        return await self._caller.call("GET", "/environments", _LIST)

    async def detail(self, key: str) -> EnvironmentDetail:
        """One, by its key or enough of it."""
        return await self._caller.call("GET", f"/environments/{key}", _DETAIL)

    async def use(self, asked: UseAsked) -> UseView:
        """The environment of a run."""
        return await self._caller.call("POST", "/environments/use", _USE, body=asked)

    async def remove(self, key: str) -> Removed:
        """Remove one that no run uses."""
        path = f"/environments/{key}"
        return await self._caller.call("DELETE", path, _REMOVED, seconds=REMOVE_SECONDS_MAX)

    async def collect(self, *, everything: bool) -> Removed:
        """Remove what there is no room for, or all that no run uses."""
        asked = {"everything": int(everything)}
        return await self._caller.call(
            "POST", "/environments/collect", _REMOVED, params=asked, seconds=REMOVE_SECONDS_MAX
        )

    async def verify(self, run: RunView | None) -> Verdict:
        """Whether the environment of a run, or every environment, is what it was when it was built."""
        asked = {"request": None if run is None else run.spec.environment.digest()}
        return await self._caller.call("GET", "/verify", VERDICT, params=asked, seconds=VERIFY_SECONDS_MAX)
