"""What private buckets are read with: the forms that keys have, and the tokens that Google takes for one of its own. Pure
but for the clock that is given.
"""

import base64
import re
from datetime import datetime, timedelta

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from spell_proto.errors import InvalidError
from spell_storage.sealed import Login

#: Nothing else may be done with a token of ours, whatever its key is good for.
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
TOKEN_SECONDS = 3600
SERVICE_ACCOUNT_CHARS_MAX = 16_384
_ACCESS_KEY = re.compile(r"[A-Za-z0-9_-]{3,128}", re.ASCII)
_SECRET = re.compile(r"[!-~]{8,256}", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,128}@[A-Za-z0-9.-]{1,128}", re.ASCII)
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


def access_key(key_id: str | None, secret: str | None) -> Login:
    """An access key of Amazon's. Neither part is echoed: one may be in the place of the other.

    Raises:
        InvalidError: it is none.
    """
    if key_id is None or not _ACCESS_KEY.fullmatch(key_id):
        raise _refused("access_key_id", "the id of an access key is allowed, as in AKIAIOSFODNN7EXAMPLE")
    if secret is None or not _SECRET.fullmatch(secret):
        raise _refused(
            "secret_access_key", "8 to 256 printable ASCII characters are allowed, none of them a blank"
        )
    return Login(key_id, secret)


def service_account(text: str | None) -> Login:
    """The key of a service account of Google's, as its JSON file has it. Only what signs is kept of it: the file also says
    where to send things.

    Raises:
        InvalidError: it is none.
    """
    try:
        given = orjson.loads((text or "")[:SERVICE_ACCOUNT_CHARS_MAX])
        address, key, key_id = (
            given["client_email"],
            given["private_key"],
            given.get("private_key_id", "none"),
        )
        sound = _ADDRESS.fullmatch(address) and _KEY_ID.fullmatch(key_id) and _private_key(key) is not None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = None
    if not sound:
        raise _refused("service_account_key", "this is not the JSON key of a service account")
    return Login(address, orjson.dumps({"private_key": key, "private_key_id": key_id}).decode())


def token(account: Login, now: datetime) -> tuple[str, datetime]:
    """What Google takes in the place of a password for an hour, and when it ends."""
    kept = orjson.loads(account.password)
    ends = now + timedelta(seconds=TOKEN_SECONDS)
    head = {"alg": "RS256", "typ": "JWT", "kid": kept["private_key_id"]}
    claims = {
        "iss": account.username,
        "sub": account.username,
        "scope": SCOPE,
        "iat": int(now.timestamp()),
        "exp": int(ends.timestamp()),
    }
    key = _private_key(kept["private_key"])
    assert key is not None, "it was looked at when it was stored"
    signed = b".".join(_part(orjson.dumps(each)) for each in (head, claims))
    return b".".join((signed, _part(key.sign(signed, PKCS1v15(), SHA256())))).decode(), ends


def _private_key(pem: str) -> RSAPrivateKey | None:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, RSAPrivateKey) else None


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _refused(field: str, why: str) -> InvalidError:
    return InvalidError("secret_invalid", f"{field}: {why}", field=field)
