"""Storage as the gateway sees it: typed calls over its internal HTTP (shell)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter

from spell_gateway.shapes import GitCredentials, RepositoryRequest
from spell_proto.errors import NotFoundError
from spell_proto.http import Caller
from spell_proto.registries import RegistryList, RegistryView
from spell_proto.shapes import Shape
from spell_proto.uploads import LinkList, LinkRequest, LinkView, UploadList, UploadRequest, UploadView
from spell_proto.views import (
    Check,
    Commit,
    FilesUse,
    GitCredentialsList,
    GitCredentialsView,
    GitHosts,
    Manifest,
    Repository,
    RepositoryList,
    RunView,
    Verdict,
)

COMMIT = TypeAdapter(Commit)
REPOSITORY = TypeAdapter(Repository)
REPOSITORIES = TypeAdapter(RepositoryList)
GIT_HOSTS = TypeAdapter(GitHosts)
GIT_CREDENTIALS = TypeAdapter(GitCredentialsView)
GIT_CREDENTIALS_LIST = TypeAdapter(GitCredentialsList)
REGISTRY = TypeAdapter(RegistryView)
REGISTRIES = TypeAdapter(RegistryList)
NOTHING: TypeAdapter[dict[str, None]] = TypeAdapter(dict[str, None])
MANIFEST = TypeAdapter(Manifest)
VERDICT = TypeAdapter(Verdict)
FILES_USE = TypeAdapter(FilesUse)
UPLOAD = TypeAdapter(UploadView)
UPLOADS = TypeAdapter(UploadList)
LINK = TypeAdapter(LinkView)
LINKS = TypeAdapter(LinkList)

#: Storage reads every byte of a run to check it, which for some 100 GB takes minutes.
VERIFY_SECONDS_MAX = 600.0
#: A login is tried before it is stored.
TRIED_SECONDS_MAX = 60.0

#: An archive is unpacked on completion.
COMPLETED_SECONDS_MAX = 3600.0

#: Bytes on their way from whoever asked us.
Body = AsyncIterator[bytes]
Response = AbstractAsyncContextManager[aiohttp.ClientResponse]


class TailAt(BaseModel):
    """Where the last lines of a journal begin."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    offset: int


class Missing(Shape):
    """Blobs that an owner does not have."""

    missing: tuple[str, ...]


class Sizes(BaseModel):
    """How much output of an attempt is stored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    stdout_bytes: int
    stderr_bytes: int


MISSING = TypeAdapter(Missing)
SIZES = TypeAdapter(Sizes)
TAIL_AT = TypeAdapter(TailAt)


class Storage:
    """Bytes, per owner."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def commit(self, owner_id: int, commit: str) -> Commit | None:
        """A commit that is there, whole."""
        try:
            return await self._caller.call("GET", f"/code/{owner_id}/commits/{commit}", COMMIT)
        except NotFoundError:
            return None

    async def put_repository(self, owner_id: int, request: RepositoryRequest) -> Repository:
        return await self._caller.call("PUT", f"/code/{owner_id}/repositories", REPOSITORY, body=request)

    async def repositories(self, owner_id: int) -> RepositoryList:
        return await self._caller.call("GET", f"/code/{owner_id}/repositories", REPOSITORIES)

    def patch(self, owner_id: int, repository_id: int, commit: str, snapshot: str) -> Response:
        """What a snapshot changes in the commit below it, for `git apply`."""
        path = f"/code/{owner_id}/{repository_id}/patch?from={commit}&to={snapshot}"
        return self._caller.open("GET", path, stream=True)

    async def git_hosts(self) -> GitHosts:
        return await self._caller.call("GET", "/git-hosts", GIT_HOSTS)

    async def git_credentials(self) -> GitCredentialsList:
        return await self._caller.call("GET", "/git-credentials", GIT_CREDENTIALS_LIST)

    async def put_git_credentials(self, host: str, given: GitCredentials) -> GitCredentialsView:
        return await self._caller.call("PUT", f"/git-credentials/{host}", GIT_CREDENTIALS, body=given)

    async def delete_git_credentials(self, host: str) -> None:
        await self._caller.call("DELETE", f"/git-credentials/{host}", NOTHING)

    async def registries(self) -> RegistryList:
        return await self._caller.call("GET", "/registries", REGISTRIES)

    async def put_registry(self, registry: str, given: Shape) -> RegistryView:
        path = f"/registries/{registry}"
        return await self._caller.call("PUT", path, REGISTRY, body=given, seconds=TRIED_SECONDS_MAX)

    async def delete_registry(self, registry: str) -> None:
        await self._caller.call("DELETE", f"/registries/{registry}", NOTHING)

    async def manifest(self, owner_id: int, digest: str) -> Manifest:
        return await self._caller.call("GET", f"/manifests/{digest}?owner_id={owner_id}", MANIFEST)

    def blob(self, method: str, owner_id: int, sha256: str, headers: dict[str, str]) -> Response:
        path = f"/blobs/{sha256}?owner_id={owner_id}"
        return self._caller.open(method, path, headers=headers, stream=True)

    def blobs(self, owner_id: int, digests: tuple[str, ...]) -> Response:
        """Small blobs together, as a pack; what is not plainly whole is left out."""
        asked, body = {"owner_id": owner_id}, orjson.dumps({"digests": digests})
        headers = {"Content-Type": "application/json"}
        path = "/blobs/unpack"
        return self._caller.open("POST", path, params=asked, headers=headers, data=body, stream=True)

    async def begin_upload(self, owner_id: int, request: UploadRequest) -> UploadView:
        asked = {"owner_id": owner_id}
        return await self._caller.call("POST", "/uploads", UPLOAD, params=asked, body=request)

    async def upload(self, owner_id: int, upload_id: int) -> UploadView:
        return await self._caller.call("GET", f"/uploads/{upload_id}?owner_id={owner_id}", UPLOAD)

    async def uploads(self, owner_id: int) -> UploadList:
        """Those that are complete."""
        return await self._caller.call("GET", f"/uploads?owner_id={owner_id}", UPLOADS)

    async def upload_at(self, owner_id: int, path: str) -> UploadView:
        """The complete upload of that name; of what is published, the one at or above a path."""
        asked = {"owner_id": owner_id, "path": path}
        return await self._caller.call("GET", "/uploads/named", UPLOAD, params=asked)

    async def missing(self, owner_id: int, digests: tuple[str, ...]) -> tuple[str, ...]:
        """Those that this owner would have to send."""
        asked, body = {"owner_id": owner_id}, {"digests": digests}
        return (await self._caller.call("POST", "/blobs/missing", MISSING, params=asked, body=body)).missing

    def send_file(
        self, method: str, owner_id: int, path: str, headers: dict[str, str], body: Body | bytes | None
    ) -> Response:
        """A request of tus, handed on."""
        asked = {"owner_id": owner_id}
        return self._caller.open(method, path, params=asked, headers=headers, data=body, stream=True)

    async def send_pack(self, owner_id: int, upload_id: int, pack: bytes) -> None:
        """Small files of an upload together."""
        path = f"/uploads/{upload_id}/pack?owner_id={owner_id}"
        async with self._caller.open("POST", path, data=pack, stream=True):
            pass

    async def complete_upload(self, owner_id: int, upload_id: int, body: Body | None) -> UploadView:
        """With a manifest, as JSON, or without."""
        path = f"/uploads/{upload_id}/complete?owner_id={owner_id}"
        async with self._caller.open("POST", path, data=body, seconds=COMPLETED_SECONDS_MAX) as response:
            return UPLOAD.validate_json(await response.read())

    async def remove_upload(self, owner_id: int, name: str) -> None:
        asked = {"owner_id": owner_id, "path": name}
        await self._caller.call("DELETE", "/uploads/named", NOTHING, params=asked)

    async def links(self, owner_id: int) -> LinkList:
        return await self._caller.call("GET", f"/links?owner_id={owner_id}", LINKS)

    async def link(self, owner_id: int, alias: str) -> LinkView:
        return await self._caller.call("GET", _link(owner_id, alias), LINK)

    async def put_link(self, owner_id: int, alias: str, target: str) -> LinkView:
        return await self._caller.call("PUT", _link(owner_id, alias), LINK, body=LinkRequest(target=target))

    async def remove_link(self, owner_id: int, alias: str) -> None:
        await self._caller.call("DELETE", _link(owner_id, alias), NOTHING)

    def output(
        self, method: str, run_id: int, attempt: int, stream: str, headers: dict[str, str]
    ) -> Response:
        """What the command wrote, without framing."""
        path = f"/journals/{run_id}/{attempt}/output?stream={stream}"
        return self._caller.open(method, path, headers=headers, stream=True)

    async def output_bytes(self, run_id: int, attempt: int, stream: str) -> int:
        """How many bytes of output are stored."""
        sizes = await self._caller.call("GET", f"/journals/{run_id}/{attempt}", SIZES)
        of = {"stdout": sizes.stdout_bytes, "stderr": sizes.stderr_bytes}
        return of.get(stream, sizes.stdout_bytes + sizes.stderr_bytes)

    def journal(self, run_id: int, attempt: int, offset: int) -> Response:
        """The journal from `offset` to where it ends now, which is always the end of a whole record."""
        path = f"/journals/{run_id}/{attempt}/bytes?offset={offset}"
        return self._caller.open("GET", path, stream=True)

    async def tail_at(self, run_id: int, attempt: int, lines: int) -> int:
        """The offset of a record from which at least the last `lines` lines follow."""
        path = f"/journals/{run_id}/{attempt}/tail?lines={lines}"
        try:
            return (await self._caller.call("GET", path, TAIL_AT)).offset
        except NotFoundError:
            return 0

    async def files_use(self, owner_id: int) -> FilesUse:
        """What an owner has saved, and may have."""
        return await self._caller.call("GET", f"/files/{owner_id}/use", FILES_USE)

    async def check_room(self, owner_id: int) -> None:
        """Raises RefusedError, quota_exceeded, where an owner has as much as he may."""
        async with self._caller.open("GET", f"/files/{owner_id}/room"):
            pass

    def scrub(self) -> Response:
        """All stored files read again: JSON lines of what is damaged."""
        return self._caller.open("POST", "/scrub", stream=True)

    async def verify(self, run: RunView) -> Verdict:
        """Whether log and files of a final run are what the scheduler was told of them."""
        log = run.log
        asked = {
            "run_id": run.id,
            "attempt": run.attempt,
            "owner_id": run.owner_id,
            # The files of an archived run are nobody's any more.
            "manifest": run.manifest if run.archived_at is None else None,
            **(log.model_dump() if log is not None else {}),
        }
        return await self._caller.call("GET", "/verify", VERDICT, params=asked, seconds=VERIFY_SECONDS_MAX)

    async def verify_files(self, owner_id: int, manifests: Sequence[str]) -> tuple[Check, ...]:
        """Whether the files of some manifests are what they say, one check for each. The digests are in a URL: not many."""
        asked = urlencode([("owner_id", owner_id), *(("manifest", digest) for digest in manifests)])
        verdict = await self._caller.call("GET", f"/verify?{asked}", VERDICT, seconds=VERIFY_SECONDS_MAX)
        return verdict.checks


def _link(owner_id: int, alias: str) -> str:
    return f"/links/{quote(alias, safe='')}?owner_id={owner_id}"
