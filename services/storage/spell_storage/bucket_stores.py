"""Opens buckets of others: at the address that the operator says, in the region where they are, as whom we may (shell).

Who names a bucket chooses nothing but its name: no address is made of it but a path below the operator's.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from obstore.store import GCSStore, ObjectStore, S3Store

from spell_proto import logs
from spell_proto.errors import SettingsError, shown
from spell_storage import bucket_complaints, bucket_keys
from spell_storage.amazon import Lent
from spell_storage.sealed import Login

log = logs.get()

AMAZON = "https://s3.amazonaws.com"
GOOGLE = "https://storage.googleapis.com"
#: Whoever asks us waits for some seconds for the beginning of an answer.
REGION_SECONDS_MAX = 4.0
CONNECT_SECONDS_MAX = 4.0
SILENT_SECONDS_MAX = 60.0
#: Longer than any object takes: it is silence that ends a read.
READ_SECONDS_MAX = 7 * 24 * 3600.0
_REGION = re.compile(r"[a-z]{2}[a-z0-9-]{1,30}", re.ASCII)
_DEFAULT_REGION = "us-east-1"

#: What the store's client asks when it has to say who it is.
Signer = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where buckets are. Empty: at Amazon's and Google's own."""

    s3: str = ""
    gs: str = ""


def read_endpoints(s3: str, gs: str) -> Endpoints:
    """The settings SPELL_S3_ENDPOINT and SPELL_GS_ENDPOINT.

    Raises:
        SettingsError: one of them is no address.
    """
    for name, value in (("SPELL_S3_ENDPOINT", s3), ("SPELL_GS_ENDPOINT", gs)):
        try:
            parts = urlsplit(value)
            sound = (
                parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
            )
            sound = sound and not (parts.username or parts.query or parts.fragment) and value.isprintable()
        except ValueError:
            sound = False
        if value and not sound:
            told = "a value with an @" if "@" in value else shown(value)
            raise SettingsError(
                f"the setting {name} must be an address such as https://minio.example.org:9000, not {told}"
            )
    return Endpoints(s3.rstrip("/"), gs.rstrip("/"))


class Stores:
    """Makes stores, which keep their connections. Regions are looked up once."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def open(self, scheme: str, bucket: str, signer: Signer | None) -> ObjectStore:
        """The store of a bucket; read anonymously without a signer.

        Raises:
            NotFoundError: there is no such bucket.
            RefusedError: nobody answers.
        """
        if scheme == "gs":
            return self._google(bucket, signer)
        return self._amazon(bucket, signer, await self._region(bucket))

    def _google(self, bucket: str, signer: Signer | None) -> ObjectStore:
        base = self._endpoints.gs or GOOGLE
        who: dict[str, Any] = {"skip_signature": True} if signer is None else {"credential_provider": signer}
        return GCSStore(bucket, base_url=base, client_options=_client(base), retry_config=_RETRIES, **who)

    def _amazon(self, bucket: str, signer: Signer | None, region: str) -> ObjectStore:
        # With the name of the bucket in the path: as part of a host name, one with dots fits no certificate.
        endpoint = self._endpoints.s3 or f"https://s3.{region}.amazonaws.com"
        common: dict[str, Any] = {
            "endpoint": endpoint,
            "region": region,
            "virtual_hosted_style_request": False,
            "client_options": _client(endpoint),
            "retry_config": _RETRIES,
        }
        if signer is None:
            return S3Store(bucket, skip_signature=True, **common)
        # Not as options: those of the process that say who it is itself would be mixed with them.
        return S3Store(bucket, credential_provider=signer, skip_signature=False, **common)

    async def _region(self, bucket: str) -> str:
        """Where a bucket is. It says so to everybody, also to those who may not read it."""
        url = f"{self._endpoints.s3 or AMAZON}/{bucket}"
        context = await asyncio.to_thread(ssl.create_default_context)
        try:
            async with (
                asyncio.timeout(REGION_SECONDS_MAX),
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=context, limit=1), trust_env=True
                ) as session,
                session.head(url, allow_redirects=False) as answer,
            ):
                status, region = answer.status, answer.headers.get("x-amz-bucket-region", "")
        except (aiohttp.ClientError, OSError) as error:
            log.info(
                "the region of a bucket cannot be found out", bucket=bucket, problem=type(error).__name__
            )
            raise bucket_complaints.unreachable(f"s3://{bucket}") from None
        if status == 404:
            raise bucket_complaints.no_bucket(f"s3://{bucket}")
        return region if _REGION.fullmatch(region) else _DEFAULT_REGION


def amazon_key(login: Login) -> Signer:
    """Sign with an access key."""
    given = {
        "access_key_id": login.username,
        "secret_access_key": login.password,
        "token": None,
        "expires_at": None,
    }
    return lambda: given


def amazon_role(current: Callable[[], Lent]) -> Signer:
    """Sign with what is lent to a role at the time."""

    def sign() -> Any:
        lent = current()
        return {
            "access_key_id": lent.access_key,
            "secret_access_key": lent.secret_key,
            "token": lent.token,
            "expires_at": datetime.fromtimestamp(lent.expires_at, UTC),
        }

    return sign


def google_account(login: Login) -> Signer:
    """Come with a token of a service account's own."""

    def sign() -> Any:
        token, ends = bucket_keys.token(login, datetime.now(UTC))
        return {"token": token, "expires_at": ends}

    return sign


_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}


def _client(address: str) -> Any:
    return {
        "allow_http": address.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS_MAX),
        "read_timeout": timedelta(seconds=SILENT_SECONDS_MAX),
        "timeout": timedelta(seconds=READ_SECONDS_MAX),
    }
