"""Has the code of a run fetched that names a URL: once, what it turned out to be is written down before it is used (shell)."""

import asyncio
import time

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError

from spell_proto import checks, logs
from spell_proto.errors import InvalidError, RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.spec import AttemptSpec, CodeLocation, GithubSource
from spell_proto.state import Reason
from spell_proto.views import Commit
from spell_runner.directory import CODE, Directory
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

log = logs.get()

RETRY_SECONDS_MAX = 5.0
#: Storage keeps a stream alive with empty lines; silence this long means that it is gone.
SILENCE_SECONDS_MAX = 120.0
SAY_AFTER_SECONDS = 3.0
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
    began, pause, said = time.monotonic(), 0.1, False
    while True:
        try:
            commit = await _ask(storage, spec.owner_id, source, notes)
        except (UnavailableError, aiohttp.ClientError, TimeoutError) as error:
            log.info("storage does not answer", run_id=spec.run_id, problem=repr(error))
            if not said and time.monotonic() - began > SAY_AFTER_SECONDS:
                said = True
                notes.line("The code cannot be fetched right now; trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)
        except (RefusedError, ValidationError) as error:
            message = error.message if isinstance(error, RefusedError) else str(error)
            raise AttemptError(Reason.CODE_FETCH, message) from error
        else:
            break
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


async def _ask(storage: Caller, owner_id: int, source: GithubSource, notes: Notes) -> Commit:
    body, headers = orjson.dumps(source.model_dump()), {"Content-Type": "application/json"}
    async with storage.open(
        "POST", f"/code/{owner_id}/fetch", data=body, headers=headers, stream=True
    ) as response:
        rest = b""
        while True:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                data = await response.content.readany()
            if not data:
                raise UnavailableError("unavailable", "storage broke off")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                commit = _said(orjson.loads(line or b"{}"), notes)
                if commit is not None:
                    return commit


def _said(message: dict[str, object], notes: Notes) -> Commit | None:
    match message:
        case {"line": str(text)}:
            notes.line(text, level="error" if message.get("level") == "error" else "info")
        case {"ready": dict(commit)}:
            return _COMMIT.validate_python(commit)
        case {"failed": {"message": str(text)}}:
            raise AttemptError(Reason.CODE_FETCH, text)
        case _:
            pass
    return None
