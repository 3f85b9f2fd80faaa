"""Private registries: what is told about them, and how a service learns what to say to one right before it asks for an image."""

import base64
import json
import re
from datetime import datetime
from enum import StrEnum
from urllib.parse import quote

from pydantic import TypeAdapter

from spell_proto.errors import NotFoundError, SettingsError
from spell_proto.http import Caller
from spell_proto.shapes import Shape

#: Shorter secrets would take half of a sentence with them.
_MASKED_CHARS_MIN = 4
_TOKEN = re.compile(r"[!-~]{16,256}", re.ASCII)


class RegistryKind(StrEnum):
    """What is stored for a registry: what it is told as it is, or what tokens of Amazon's are got with."""

    LOGIN = "login"
    AWS_KEY = "aws_key"
    AWS_ROLE = "aws_role"


class RegistryView(Shape):
    """That a login is stored for a registry; the password is never shown again. `username` may be an access key, or a role."""

    registry: str
    kind: RegistryKind
    username: str
    created_at: datetime


class RegistryList(Shape):
    """`aws_role` is the IAM role of the cluster, null where an operator has named none."""

    registries: tuple[RegistryView, ...]
    aws_role: str | None = None


class RegistryLogin(Shape):
    """What a registry is told. For one pull or push: it is kept in no file, log, event or label."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"RegistryLogin({self.username!r}, …)"

    __str__ = __repr__

    def auth(self) -> dict[str, str]:
        """What a Docker daemon takes as the header X-Registry-Auth, before it is encoded."""
        return {"username": self.username, "password": self.password}

    def redact(self, text: str) -> str:
        """A sentence of somebody else's without the password, however it is written there."""
        both = f"{self.username}:{self.password}".encode()
        written = [self.password, json.dumps(self.password)[1:-1], quote(self.password, safe="")]
        written += [encode(both).decode() for encode in (base64.b64encode, base64.urlsafe_b64encode)]
        # What holds another one is masked before it.
        for secret in sorted(set(written), key=len, reverse=True):
            if len(secret) >= _MASKED_CHARS_MIN:
                text = text.replace(secret, "…")
        return text


_LOGIN: TypeAdapter[RegistryLogin] = TypeAdapter(RegistryLogin)


def read_token(setting: str) -> str:
    """The setting SPELL_REGISTRY_TOKEN, by which storage knows who may be told logins; empty where nobody may.

    Raises:
        SettingsError: it is too short to be a secret, or does not go into a header.
    """
    if setting and not _TOKEN.fullmatch(setting):
        raise SettingsError(
            "the setting SPELL_REGISTRY_TOKEN must be 16 to 256 printable ASCII characters without a blank, as of "
            "openssl rand -hex 24"
        )
    return setting


async def login_for(storage: Caller, registry: str) -> RegistryLogin | None:
    """What to tell a registry, as `spell_proto.images.parse` names it; None where nothing is stored for it.

    Ask right before every pull and push: some logins are good for hours only. The caller has the token of `read_token`.

    Raises:
        RefusedError: there is one, and it cannot be had; the sentence is for users.
        UnavailableError: storage does not answer.
    """
    try:
        return await storage.call("GET", f"/registries/{registry}/login", _LOGIN)
    except NotFoundError:
        return None
