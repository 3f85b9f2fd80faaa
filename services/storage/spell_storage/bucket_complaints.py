"""What goes wrong at a bucket, as a sentence for its users: with the name of the bucket, without anything secret. Pure."""

import re

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from spell_proto.errors import ConflictError, NotFoundError, RefusedError, shown

_STATUS = re.compile(r"status code: ([1-5][0-9]{2})\b", re.ASCII)
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>", re.ASCII)
_PATH = re.compile(r'[Pp]ath "((?:[^"\\]|\\.)*)"')


def denied(url: str, *, stored: bool) -> RefusedError:
    """A bucket that does not let us in. `stored`: we came with credentials."""
    bucket = "/".join(url.split("/", 3)[:3])
    why = (
        "the credentials that are stored for it may not"
        if stored
        else f"it is not public, and none are stored for it; an administrator can: spell cluster add-bucket {bucket}"
    )
    refused = RefusedError("bucket_denied", f"{shown(url)} may not be read: {why}", field="url")
    refused.status = 403
    return refused


def no_bucket(bucket: str) -> NotFoundError:
    """A bucket that does not exist."""
    return NotFoundError("bucket_not_found", f"{shown(bucket)}: there is no such bucket", field="url")


def nothing_at(url: str) -> NotFoundError:
    """No object of that name, nor any below it."""
    return NotFoundError("resource_not_found", f"{shown(url)}: no such object, nor any below it", field="url")


def unreachable(url: str) -> RefusedError:
    """Nobody answers for the bucket. It is not we who are away: nobody should look for us elsewhere, or wait."""
    refused = RefusedError("bucket_unreachable", f"{shown(url)} cannot be reached right now; try again")
    refused.status = 424
    return refused


def refusal(error: BaseError | FileNotFoundError, url: str, *, stored: bool) -> RefusedError:
    """An error of the store's client as what it means; its own text holds addresses, and answers of others, whole."""
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else ""
    if code == "NoSuchBucket":
        return no_bucket("/".join(url.split("/", 3)[:3]))
    if isinstance(error, FileNotFoundError):
        return nothing_at(url)
    if isinstance(error, PreconditionError):
        return ConflictError("object_changed", f"{shown(url)} is another object by now", field="url")
    if isinstance(error, InvalidPathError):
        key = found[1] if (found := _PATH.search(text)) else ""
        refused = RefusedError(
            "bucket_key_invalid",
            f"{shown(url)} holds an object whose key is no path: {shown(key)}; name what is beside it",
            field="url",
        )
        refused.status = 422
        return refused
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in {401, 403}:
        return denied(url, stored=stored)
    if status is None or status >= 500:
        return unreachable(url)
    return RefusedError(
        "bucket_odd", f"{shown(url)} cannot be read: it answers {status} {code}".rstrip(), field="url"
    )
