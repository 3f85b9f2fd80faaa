"""What a resource path names: files of a run, an upload, published data, a link, or objects of a bucket. Pure.

runs/7[@2][/sub]      what run 7 made; with @2, its second snapshot
uploads/NAME[/sub]    what `spell upload` brought
public/...            what operators published
ALIAS[/sub]           a link to any of these
s3://bucket[/key]     objects, those below a key among them; gs:// likewise
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from spell_proto import checks
from spell_proto.errors import InvalidError, shown

RUNS: Final = "runs"
UPLOADS: Final = "uploads"
PUBLIC: Final = "public"
#: No link is called like these, and no path is resolved through one that is.
TOP: Final = (PUBLIC, RUNS, UPLOADS)
SCHEMES: Final = ("s3", "gs")
#: What no alias holds.
ALIAS_FORBIDDEN: Final = '/."\\[]:;|=,'
ALIAS_CHARS_MAX = 100
NAME_BYTES_MAX = 255
#: How deep a file of an upload may be.
PATH_PARTS_MAX = 256
KEY_BYTES_MAX = 1024

#: What is said of a path that was typed with one. A name in a resource may have it.
BACKSLASH: Final = "holds a backslash, which no path here does; name the directory that it is in"

_RUN = re.compile(r"([1-9][0-9]{0,15})(?:@([1-9][0-9]{0,8}))?", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9._-]{1,220})[a-z0-9]", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.ASCII | re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Listing:
    """No resource, but a list of them: everything (empty `name`), or one of `TOP`."""

    name: str


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run, or of a snapshot of it, at or below `path`."""

    run_id: int
    snapshot: int | None
    path: str

    @property
    def text(self) -> str:
        snapshot = "" if self.snapshot is None else f"@{self.snapshot}"
        return _joined(RUNS, f"{self.run_id}{snapshot}", self.path)


@dataclass(frozen=True, slots=True)
class Upload:
    name: str
    path: str

    @property
    def text(self) -> str:
        return _joined(UPLOADS, self.name, self.path)


@dataclass(frozen=True, slots=True)
class Public:
    """What was published as `path`, or as something above it."""

    path: str

    @property
    def text(self) -> str:
        return _joined(PUBLIC, self.path)


@dataclass(frozen=True, slots=True)
class Linked:
    alias: str
    path: str

    @property
    def text(self) -> str:
        return _joined(self.alias, self.path)


@dataclass(frozen=True, slots=True)
class InBucket:
    """An object, or all whose keys begin with `key` and a slash; an empty key means the whole bucket."""

    scheme: str
    bucket: str
    key: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    @property
    def text(self) -> str:
        return self.url


Resource = RunFiles | Upload | Public | Linked | InBucket


def parse(text: str, *, field: str = "path", code: str = "path_invalid") -> Resource | Listing:
    """What a path names. Slashes at its end are let pass.

    Raises:
        InvalidError: `code`, or bucket_invalid; the message names `field`.
    """
    scheme = _SCHEME.fullmatch(text)
    if scheme is not None:
        return _in_bucket(text, scheme[1], scheme[2], field)
    trimmed = text.rstrip("/")
    why = checks.path_problem(trimmed) if trimmed else None
    if why is not None:
        raise _refused(text, field, code, why)
    parts = tuple(trimmed.split("/")) if trimmed else ()
    if any(unquote(part) in {".", ".."} for part in parts):
        raise _refused(text, field, code, "it goes upwards in disguise")
    if not parts or parts in {(name,) for name in TOP}:
        return Listing("/".join(parts))
    first, rest = parts[0], "/".join(parts[1:])
    if first == PUBLIC:
        return Public(rest)
    if first == UPLOADS:
        return Upload(parts[1], "/".join(parts[2:]))
    if first == RUNS:
        found = _RUN.fullmatch(parts[1])
        if found is None:
            raise _refused(text, field, code, _no_run(parts[1]))
        snapshot = None if found[2] is None else int(found[2])
        return RunFiles(int(found[1]), snapshot, "/".join(parts[2:]))
    if set(first) & set(ALIAS_FORBIDDEN):
        raise _refused(text, field, code, "runs/N, uploads/NAME, public/..., a link, s3:// or gs:// is")
    return Linked(first, rest)


def _no_run(name: str) -> str:
    number, at, _ = name.partition("@")
    if at and _RUN.fullmatch(number):
        return f"after '@' comes the number of a snapshot, and they count from 1, as in runs/{number}@1"
    return "after 'runs/' comes the number of a run, as in runs/7"


def _in_bucket(text: str, scheme: str, rest: str, field: str) -> InBucket:
    bucket, _, key = rest.partition("/")
    key = key.rstrip("/")
    if scheme not in SCHEMES:
        why = "s3://BUCKET[/KEY] and gs://BUCKET[/KEY] are allowed"
    elif not _BUCKET.fullmatch(bucket) or ".." in bucket:
        why = "after '://' comes the name of a bucket: 3 or more small letters, digits, '-', '_' and '.'"
    elif len(key.encode(errors="replace")) > KEY_BYTES_MAX:
        why = f"its key is longer than {KEY_BYTES_MAX} bytes"
    elif _CONTROL.search(key) or any(
        part in {"", ".", ".."} for part in key.split("/")[: None if key else 0]
    ):
        why = "its key is no path: names joined by single slashes, no '..'"
    else:
        return InBucket(scheme, bucket, key)
    raise _refused(text, field, "bucket_invalid", why)


def alias(value: str) -> str:
    """The name of a link."""
    if value in TOP:
        raise InvalidError(
            "alias_forbidden",
            f"alias: {shown(value)}: Forbidden alias. Link aliases must not correspond to existing directories.",
            field="alias",
        )
    if not 1 <= len(value) <= ALIAS_CHARS_MAX or set(value) & set(ALIAS_FORBIDDEN) or _CONTROL.search(value):
        raise InvalidError(
            "alias_invalid",
            f"alias: {shown(value)}: 1 to {ALIAS_CHARS_MAX} characters are allowed, and none of {ALIAS_FORBIDDEN}",
            field="alias",
        )
    return value


def upload_name(value: str) -> str:
    """The name of an upload: one part of a path."""
    bad = value in {"", ".", ".."} or "/" in value or "\\" in value or ":" in value or _CONTROL.search(value)
    if bad or len(value.encode(errors="replace")) > NAME_BYTES_MAX or not _is_text(value):
        raise InvalidError(
            "upload_name_invalid",
            f"name: {shown(value)}: one name is allowed, as of a directory: no slash, no colon, at most "
            f"{NAME_BYTES_MAX} bytes",
            field="name",
        )
    return value


def base_name(resource: Resource) -> str:
    """What a resource is called where it is mounted, unless somebody says otherwise."""
    match resource:
        case RunFiles(run_id=run_id, path=path):
            return path.rpartition("/")[2] or str(run_id)
        case Upload(name=name, path=path) | Linked(alias=name, path=path):
            return path.rpartition("/")[2] or name
        case Public(path=path):
            return path.rpartition("/")[2]
        case InBucket(bucket=bucket, key=key):
            return key.rpartition("/")[2] or bucket


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _refused(text: str, field: str, code: str, why: str) -> InvalidError:
    return InvalidError(code, f"{field}: {shown(text)} names no resource: {why}", field=field)
