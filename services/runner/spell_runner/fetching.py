"""Has the code of a run fetched that names a URL: once, what it turned out to be is written down before it is used (shell)."""

from pydantic import TypeAdapter, ValidationError

from spell_proto import checks
from spell_proto.errors import InvalidError, RefusedError
from spell_proto.http import Caller
from spell_proto.spec import AttemptSpec, CodeLocation
from spell_proto.state import Reason
from spell_proto.views import Commit
from spell_runner import asking
from spell_runner.directory import CODE, Directory
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

WAITING = "The code cannot be fetched right now; trying again"
_COMMIT: TypeAdapter[Commit] = TypeAdapter(Commit)


def with_code(spec: AttemptSpec, directory: Directory) -> AttemptSpec:
    """The spec with the code that an earlier runner has had fetched, if it has."""
    if spec.spec.code is not None or spec.spec.github is None:
        return spec
    return _completed(spec, directory.code())


async def fetch(storage: Caller, spec: AttemptSpec, directory: Directory, notes: Notes) -> AttemptSpec:
    """The spec with the code that its URL names now; waits for as long as storage is away.

    Raises:
        AttemptError: there is no such code, or it may not be fetched.
    """
    source = spec.spec.github
    assert source is not None
    try:
        name = checks.root_directory(checks.github_directory(source.url))
    except InvalidError as error:
        raise AttemptError(Reason.CODE_FETCH, f"{source.url}: {error.message}") from error

    async def ask() -> Commit:
        path, body = f"/code/{spec.owner_id}/fetch", source.model_dump()
        ready = await asking.last_word(storage, "storage", path, body, notes, Reason.CODE_FETCH)
        return _COMMIT.validate_python(ready)

    try:
        commit = await asking.until_answered(ask, notes, spec.run_id, "storage", WAITING)
    except (RefusedError, ValidationError) as error:
        message = error.message if isinstance(error, RefusedError) else str(error)
        raise AttemptError(Reason.CODE_FETCH, message) from error
    code = CodeLocation(
        repository_id=commit.repository_id,
        repository=commit.repository,
        commit=commit.commit,
        tree=commit.tree,
        root_directory=name,
        cwd=".",
    )
    directory.write(CODE, code.model_dump_json().encode())
    return _completed(spec, code)


def _completed(spec: AttemptSpec, code: CodeLocation | None) -> AttemptSpec:
    return spec.model_copy(update={"spec": spec.spec.model_copy(update={"code": code})})
