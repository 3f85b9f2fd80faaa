"""Buckets on this machine: those of S3, and of Google, whose XML is nearly the same, as moto has them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support import amazon

REGION = "eu-west-1"


class Clouds:
    """A server that holds buckets. Those for Google's client have no '-' and '.' in their names: moto does not decode them."""

    def __init__(self, made: amazon.Amazon) -> None:
        self.amazon = made
        self.s3: Any = boto3.client(
            "s3",
            endpoint_url=made.url,
            region_name=REGION,
            aws_access_key_id="setup",
            aws_secret_access_key="setup",
            verify=None if made.trusted is None else str(made.trusted),
        )

    @property
    def settings(self) -> dict[str, str]:
        """What storage needs to find them."""
        return {"SPELL_S3_ENDPOINT": self.amazon.url, "SPELL_GS_ENDPOINT": self.amazon.url}

    def bucket(self, name: str, objects: Mapping[str, bytes] | None = None, *, public: bool = True) -> None:
        """Make a bucket with these objects, in the place of any of that name."""
        if name in {one["Name"] for one in self.s3.list_buckets()["Buckets"]}:
            for one in self.s3.list_objects_v2(Bucket=name).get("Contents", []):
                self.s3.delete_object(Bucket=name, Key=one["Key"])
            self.s3.delete_bucket(Bucket=name)
        place = {"LocationConstraint": REGION}
        acl = "public-read" if public else "private"
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration=place, ACL=acl)
        for key, data in (objects or {}).items():
            self.put(name, key, data, public=public)

    def put(self, bucket: str, key: str, data: bytes, *, public: bool = True) -> None:
        acl = "public-read" if public else "private"
        self.s3.put_object(Bucket=bucket, Key=key, Body=data, ACL=acl)


@contextmanager
def clouds(directory: Path, port: int = 0, *, names: tuple[str, ...] = ()) -> Iterator[Clouds]:
    """They answer for as long as the context lasts; at any free port, unless one is given. With `names`, over TLS."""
    with amazon.amazon(directory, port, names=names) as made:
        yield Clouds(made)


def service_account(address: str = "reader@project.example.org") -> dict[str, str]:
    """The key of a service account of Google's, as its file has it."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "client_email": address,
        "private_key_id": "0123abcd",
        "private_key": pem.decode(),
        "token_uri": "http://127.0.0.1:1/token",
    }


def as_text(account: dict[str, str]) -> str:
    return json.dumps(account)
