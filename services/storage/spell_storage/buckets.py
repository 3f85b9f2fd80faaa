"""Buckets of others: what they hold, what is in an object, and the credentials that private ones are read with (shell)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import asyncpg
import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from spell_proto import database, logs, resources
from spell_proto.buckets import BucketKind, BucketView, ObjectEntry
from spell_proto.errors import InvalidError, NotFoundError, RefusedError, shown
from spell_proto.resources import InBucket
from spell_storage import bucket_complaints, bucket_keys, bucket_listing
from spell_storage.amazon import AmazonError
from spell_storage.bucket_roles import Roles
from spell_storage.bucket_stores import Signer, Stores, amazon_key, amazon_role, google_account
from spell_storage.objects import PIECE_BYTES
from spell_storage.sealed import Login, Seal, UnreadableError

log = logs.get()

_SQL = database.queries("spell_storage", "buckets.sql")
STORES_KEPT_MAX = 64
#: A bucket is tried before what it is read with is stored.
TRIAL_SECONDS_MAX = 20.0
_PAGE = 1000
#: A page of which less than this share are entries of the level is poor: it is spent on directories. After so many of
#: them the bucket is asked for the level itself.
_RICH_SHARE = 0.25
_POOR_PAGES_MAX = 4
_LOOKS_AT_ONCE = 16
#: Where a bucket is, or who may read it, may have changed since its store was opened.
_STALE = frozenset({"bucket_denied", "bucket_not_found", "bucket_odd"})


class _Open(NamedTuple):
    store: ObjectStore
    stored_at: datetime | None


class Opened(NamedTuple):
    """An object that is being read: `pieces` are its bytes from `first` to before `end`, of `size` in all."""

    size: int
    etag: str | None
    first: int
    end: int
    pieces: AsyncGenerator[bytes, None]


class Buckets:
    """The table `buckets`, and reading with what is in it."""

    def __init__(self, pool: asyncpg.Pool, seal: Seal, stores: Stores, roles: Roles, role: str) -> None:
        self._pool = pool
        self._seal = seal
        self._stores = stores
        self._roles = roles
        #: that of the cluster, if it has one
        self._role = role
        self._open: dict[tuple[str, str], _Open] = {}

    async def put(
        self, url: str, key_id: str | None, secret: str | None, service_account: str | None
    ) -> BucketView:
        """Store what a bucket is read with, instead of what was stored before, if it lets us read. One of Amazon's may come
        without a key: then it is read as the role of the cluster.

        Raises:
            InvalidError: it does not, or these are no credentials.
            RefusedError: there is no such bucket, or nobody answers.
        """
        at = bucket_at(url)
        if at.scheme == "gs":
            kind, login = BucketKind.GOOGLE_KEY, bucket_keys.service_account(service_account)
        elif key_id is None and secret is None:
            kind, login = BucketKind.AWS_ROLE, Login(self._cluster(at), "")
        else:
            kind, login = BucketKind.AWS_KEY, bucket_keys.access_key(key_id, secret)
        await self._try(at, kind, login)
        sealed = await self._seal.close(_place(at), login)
        row = await self._pool.fetchrow(_SQL["put"], at.url, kind, login.username, sealed)
        assert row is not None
        return _view(row)

    def _cluster(self, at: InBucket) -> str:
        if not self._role:
            raise InvalidError(
                "bucket_role_missing",
                f"{at.url}: this cluster has no IAM role, which an operator names in SPELL_AWS_ROLE; without one, give an "
                "access key: --access-key-id ID, and its secret",
                field="url",
            )
        return self._role

    async def _signer(self, at: InBucket, kind: BucketKind, login: Login) -> Signer:
        match kind:
            case BucketKind.GOOGLE_KEY:
                return google_account(login)
            case BucketKind.AWS_KEY:
                return amazon_key(login)
            case BucketKind.AWS_ROLE:
                await self._become(at, login.username)
                return amazon_role(partial(self._roles.current, login.username))

    async def _become(self, at: InBucket, role: str) -> None:
        try:
            await self._roles.renew(role)
        except AmazonError as error:
            raise RefusedError(
                "bucket_role_failed",
                f"{at.url} cannot be read as the role of the cluster: {error}",
                field="url",
            ) from None

    async def _try(self, at: InBucket, kind: BucketKind, login: Login) -> None:
        try:
            async with asyncio.timeout(TRIAL_SECONDS_MAX):
                signer = await self._signer(at, kind, login)
                store = await self._stores.open(at.scheme, at.bucket, signer)
                with _answering(at.url, stored=True):
                    async for page in obstore.list(store, chunk_size=1):
                        # Who may list may not always read.
                        await obstore.head_async(store, page[0]["path"])
                        break
        except TimeoutError:
            raise bucket_complaints.unreachable(at.url) from None
        except RefusedError as error:
            if error.code != "bucket_denied":
                raise
            raise InvalidError(
                "bucket_credentials_refused",
                f"{at.url} does not let "
                + (f"the role {login.username}" if kind is BucketKind.AWS_ROLE else "these credentials")
                + " list and read it; nothing was stored",
                field="url",
            ) from None

    async def all(self) -> tuple[BucketView, ...]:
        return tuple(_view(row) for row in await self._pool.fetch(_SQL["all"]))

    async def remove(self, url: str) -> None:
        """Forget what a bucket is read with.

        Raises:
            NotFoundError: nothing is stored for it.
        """
        at = bucket_at(url)
        self._open.pop((at.scheme, at.bucket), None)
        if await self._pool.fetchrow(_SQL["remove"], at.url) is None:
            raise NotFoundError("credentials_not_found", f"no credentials are stored for {shown(at.url)}")

    async def listing(self, url: str, *, recursive: bool) -> AsyncGenerator[list[ObjectEntry], None]:
        """An object alone, or what is below a key, in the order of the keys: all of it, or one level.

        Raises:
            InvalidError: this names no bucket.
            RefusedError: it may not be read, is not there, or has nothing there.
        """
        at = within_bucket(url)
        store, stored = await self._store(at)
        with self._reading(at, stored=stored):
            alone, forbidden = await _alone(store, at.key)
            if alone is not None:
                yield [bucket_listing.object_entry(alone)]
                return
            found = 0
            async for page in _below(store, at.key) if recursive else level_below(store, at.key):
                found += len(page)
                if page:
                    yield page
        if forbidden and not found:
            raise bucket_complaints.denied(at.url, stored=stored)
        if at.key and not found:
            raise bucket_complaints.nothing_at(at.url)

    async def open(self, url: str, etag: str | None, part: tuple[int, int] | None) -> Opened:
        """An object to read from, whole or a part of it. With an `etag`, that very one.

        Raises:
            ConflictError: it is another one by now.
            RefusedError: see `listing`.
        """
        at = within_bucket(url)
        store, stored = await self._store(at)
        options: Any = {}
        if etag is not None:
            options["if_match"] = etag
        if part is not None:
            options["range"] = part
        with self._reading(at, stored=stored):
            result = await obstore.get_async(store, at.key, options=options)
        first, end = result.range
        pieces = _pieces(result, at.url, stored=stored)
        return Opened(result.meta["size"], result.meta["e_tag"], first, end, pieces)

    async def size(self, url: str) -> int:
        """How long an object is."""
        at = within_bucket(url)
        store, stored = await self._store(at)
        with self._reading(at, stored=stored):
            return (await obstore.head_async(store, at.key))["size"]

    async def _store(self, at: InBucket) -> tuple[ObjectStore, bool]:
        """The store of a bucket, and whether credentials are stored for it."""
        row = await self._pool.fetchrow(_SQL["secret_of"], _bucket(at))
        stored_at = row["created_at"] if row is not None else None
        if row is not None and row["kind"] == BucketKind.AWS_ROLE:
            await self._become(at, row["username"])
        known = self._open.get((at.scheme, at.bucket))
        if known is None or known.stored_at != stored_at:
            signer = (
                await self._signer(at, BucketKind(row["kind"]), await self._login(at, row)) if row else None
            )
            known = _Open(await self._stores.open(at.scheme, at.bucket, signer), stored_at)
            if len(self._open) >= STORES_KEPT_MAX:
                self._open.clear()
            self._open[at.scheme, at.bucket] = known
        return known.store, row is not None

    async def _login(self, at: InBucket, row: asyncpg.Record) -> Login:
        try:
            return await self._seal.open(_place(at), row["username"], row["secret"])
        except UnreadableError:
            raise RefusedError(
                "bucket_credentials_unreadable",
                f"the credentials of {_bucket(at)} cannot be read; an administrator must store them again",
            ) from None

    @contextmanager
    def _reading(self, at: InBucket, *, stored: bool) -> Iterator[None]:
        """What goes wrong in it comes out as what it means."""
        try:
            with _answering(at.url, stored=stored):
                yield
        except RefusedError as error:
            if error.code in _STALE:
                self._open.pop((at.scheme, at.bucket), None)
            raise


def within_bucket(url: str) -> InBucket:
    """What a URL names in a bucket.

    Raises:
        InvalidError: bucket_invalid.
    """
    found = resources.parse(url, field="url", code="bucket_invalid")
    if not isinstance(found, InBucket):
        raise InvalidError(
            "bucket_invalid", f"url: {shown(url)} names no bucket, as s3://team-data does", field="url"
        )
    return found


def bucket_at(url: str) -> InBucket:
    """A bucket as a whole.

    Raises:
        InvalidError: bucket_invalid.
    """
    found = within_bucket(url)
    if found.key:
        raise InvalidError(
            "bucket_invalid", f"url: {shown(url)} is in a bucket; {_bucket(found)} is one", field="url"
        )
    return found


async def _alone(store: ObjectStore, key: str) -> tuple[bucket_listing.ObjectMeta | None, bool]:
    """The object of a key, if there is one, and whether asking for it was forbidden."""
    if not key:
        return None, False
    try:
        return await obstore.head_async(store, key), False
    except FileNotFoundError:
        return None, False
    except obstore.exceptions.PermissionDeniedError:
        # Who may not list is told this of what does not exist, too; and other keys may begin with this one.
        return None, True


async def _below(store: ObjectStore, key: str) -> AsyncGenerator[list[ObjectEntry], None]:
    """All objects below a key."""
    markers = bucket_listing.Markers(key)
    async for page in obstore.list(store, key or None, chunk_size=_PAGE):
        yield await _told_apart(store, markers.feed(page), None)
    yield await _told_apart(store, markers.end(), None)


async def level_below(
    store: ObjectStore, key: str, page_objects: int = _PAGE
) -> AsyncGenerator[list[ObjectEntry], None]:
    """One level below a key. What the store's client has for this holds all of it in memory, so it is for levels of
    directories; those of objects are read page by page.
    """
    level, poor, offset, passed = bucket_listing.Level(key), 0, None, ""
    while True:
        going_on = False
        async for page in obstore.list(store, key or None, offset=offset, chunk_size=page_objects):
            entries = await _told_apart(store, level.feed(page), bucket_listing.directory)
            yield entries
            passed = bucket_listing.rank(entries[-1]) if entries else passed
            poor += len(entries) < len(page) * _RICH_SHARE
            if poor > _POOR_PAGES_MAX:
                async for rest in _rest(store, key, passed):
                    yield rest
                return
            offset = level.beyond
            if offset is not None and len(page) == page_objects:
                going_on = True
                break
        if not going_on:
            yield await _told_apart(store, level.end(), bucket_listing.directory)
            return


async def _told_apart(
    store: ObjectStore, entries: list[ObjectEntry], instead: Callable[[str], ObjectEntry] | None
) -> list[ObjectEntry]:
    """The entries, but for empty ones that mark an empty directory: of their name there is no object. `instead` is what stands
    for them.
    """
    marks: set[str] = set()
    empty = iter([entry.key for entry in entries if entry.size == 0])

    async def look() -> None:
        for key in empty:
            try:
                await obstore.head_async(store, key)
            except FileNotFoundError:
                marks.add(key)
            except BaseError:
                # What is wrong with it is for who reads it.
                continue

    async with asyncio.TaskGroup() as looks:
        for _ in range(min(_LOOKS_AT_ONCE, len(entries))):
            looks.create_task(look())
    found = [instead(entry.key) if instead and entry.key in marks else entry for entry in entries]
    return [entry for entry in found if entry.size is None or entry.key not in marks]


async def _rest(store: ObjectStore, key: str, passed: str) -> AsyncGenerator[list[ObjectEntry], None]:
    there = await obstore.list_with_delimiter_async(store, key or None)
    found = bucket_listing.level(key, there["common_prefixes"], there["objects"])
    yield [entry for entry in found if bucket_listing.rank(entry) > passed]


async def _pieces(result: Any, url: str, *, stored: bool) -> AsyncGenerator[bytes, None]:
    with _answering(url, stored=stored):
        async for piece in result.stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)


@contextmanager
def _answering(url: str, *, stored: bool) -> Iterator[None]:
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        refused = bucket_complaints.refusal(error, url, stored=stored)
        if refused.code == "bucket_unreachable":
            log.warning("a bucket does not answer", bucket=url, problem=type(error).__name__)
        raise refused from None


def _bucket(at: InBucket) -> str:
    return f"{at.scheme}://{at.bucket}"


def _place(at: InBucket) -> str:
    """What a secret is bound to. No git host and no registry has a blank in it."""
    return f"bucket {_bucket(at)}"


def _view(row: asyncpg.Record) -> BucketView:
    return BucketView(**dict(row) | {"kind": BucketKind(row["kind"])})
