"""Buckets of others: which credentials are stored for private ones, and their objects as storage lists them."""

from datetime import datetime
from enum import StrEnum

from spell_proto.shapes import Shape


class BucketKind(StrEnum):
    """What a bucket is read with: an access key of Amazon's, the role of the cluster, or the key of a service account of
    Google's.
    """

    AWS_KEY = "aws_key"
    AWS_ROLE = "aws_role"
    GOOGLE_KEY = "google_key"


class BucketView(Shape):
    """That credentials are stored for a bucket; their secret is never shown again. `username` is the id of an access key, a
    role, or the address of a service account.
    """

    url: str
    kind: BucketKind
    username: str
    created_at: datetime


class BucketList(Shape):
    buckets: tuple[BucketView, ...]


class ObjectEntry(Shape):
    """A line of a listing: an object, or where `size` is null the beginning that keys below it share."""

    key: str
    size: int | None
    etag: str | None
    modified_at: datetime | None


class ListingEnd(Shape):
    """The last line of a listing that is whole: how many lines came before it."""

    end: int
