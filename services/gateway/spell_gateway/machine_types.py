"""Which type of machine a run goes to, and whether one of it can run what is asked for. Pure."""

import difflib

from spell_proto import checks
from spell_proto.engines import DOCKER, LOCAL, LOCAL_MOUNTS, Engine, engine_for
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import MachineTypeList, MachineTypeView

#: Of a name that does not exist, so much is compared with those that do.
NAME_CHARS_COMPARED = 64
#: Why no machine of a type can run something that needs the engine, and what helps.
_MISSING = {
    LOCAL_MOUNTS: (
        "none has namespaces, without which nothing can be mounted outside /spell",
        "Install bubblewrap on a machine of this type (apt-get install bubblewrap), or mount below /spell.",
    ),
    DOCKER: (
        "Docker does not answer on any",
        "Install Docker on a machine of this type and start it (systemctl start docker); it is noticed within seconds.",
    ),
}


#: What a person has typed to ask for an engine.
_FLAGS = {
    "docker_image": "--docker-image",
    "environment.apt": "--apt",
    "environment.framework": "--framework",
    "mounts": "--mount",
}


def pick(
    listed: MachineTypeList, name: str | None, needs: frozenset[str] | None, field: str
) -> MachineTypeView:
    """The type called `name`, or the default one. `needs` are engines of which one must be there, `field` asks for it.

    Raises:
        InvalidError: there is no such type, or no machine of it can run that.
    """
    found = _named(listed, listed.default if name is None else name)
    if _able(found, needs):
        return found
    assert needs is not None
    problem, remedy = next(
        (missing for engine, missing in _MISSING.items() if engine in needs),
        (
            f"none has the engine {' or '.join(sorted(needs))}",
            "SPELL_ENGINE of its runner says what a machine has.",
        ),
    )
    others = [kind.name for kind in listed.machine_types if kind.machines and _able(kind, needs)]
    elsewhere = f" Or choose another type of machine: {', '.join(others)}." if others else ""
    raise InvalidError(
        "engine_unavailable",
        f"{_FLAGS.get(field, field)}: no machine of type {found.name} can run this: {problem}",
        field=field,
        hint=remedy + elsewhere,
    )


def field(image: str | None, environment: EnvironmentRequest) -> str:
    """What of a run needs an engine that not every machine has, if anything does."""
    if image is not None:
        return "docker_image"
    return "environment.apt" if environment.apt else "mounts"


def _named(listed: MachineTypeList, name: str) -> MachineTypeView:
    kinds = {kind.name.lower(): kind for kind in listed.machine_types}
    try:
        exact = checks.machine_type(name, [kind.name for kind in listed.machine_types])
    except InvalidError as error:
        near = difflib.get_close_matches(name[:NAME_CHARS_COMPARED].strip().lower(), kinds, 1)
        error.hint = f"Did you mean {kinds[near[0]].name}?" if near else None
        raise
    return next(kind for kind in listed.machine_types if kind.name == exact)


def _able(kind: MachineTypeView, needs: frozenset[str] | None) -> bool:
    """What machines can do that do not answer right now is not known, and not held against them."""
    return needs is None or not kind.machines or bool(needs & set(kind.engines))


def engine(environment: EnvironmentRequest, kind: MachineTypeView, *, outside: bool = False) -> Engine:
    """The engine that a run gets which names no image; `outside` says that it mounts something outside the workspace."""
    return engine_for(environment, None, kind.engines or (LOCAL, DOCKER), outside=outside)


def accelerated(
    environment: EnvironmentRequest, image: str | None, kind: MachineTypeView, *, outside: bool = False
) -> EnvironmentRequest:
    """The environment as the GPUs of a machine need it: a framework comes in a variant that uses them. So does the one
    that everybody gets in Docker who names none, and no conda file.
    """
    in_docker = engine(environment, kind, outside=outside) == DOCKER
    unnamed = image is None and environment.conda is None and in_docker
    framework = environment.framework is not None or unnamed
    if not framework or environment.accelerator is not None or not kind.gpus:
        return environment
    return environment.model_copy(update={"accelerator": "cuda"})
