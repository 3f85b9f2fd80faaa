"""Public SSH keys: what is one, and what its fingerprint is."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from spell_proto import checks
from spell_proto.errors import InvalidError, shown

KINDS = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One public key: `line` is its type and base64 data without the comment."""

    line: str
    comment: str
    fingerprint: str


def _refuse(what: str) -> InvalidError:
    return InvalidError(
        "public_key_invalid",
        f"public_key: {what}; one line as in ~/.ssh/id_ed25519.pub is allowed",
        field="public_key",
    )


def parse(text: str) -> PublicKey:
    """The public key in `text`, a line of OpenSSH's format.

    Raises:
        InvalidError: it is something else, with a sentence of its own for a private key.
    """
    if "PRIVATE KEY" in text:
        raise InvalidError(
            "private_key_refused",
            "public_key: this is a private key: keep it secret, and give the file that ends in .pub",
            field="public_key",
        )
    line = text.strip()
    if len(line) > checks.PUBLIC_KEY_CHARS_MAX or "\n" in line or "\0" in line:
        raise _refuse("it is more than one line, or too long")
    parts = line.split(None, 2)
    if len(parts) < 2 or parts[0] not in KINDS:
        raise _refuse(f"{shown(line, 40)} is not a public key")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        raise _refuse("its data is not base64") from None
    # The data repeats the type, so a mangled line is found before a push fails over it.
    kind = parts[0].encode()
    if blob[: 4 + len(kind)] != len(kind).to_bytes(4, "big") + kind or len(blob) < len(kind) + 4 + 32:
        raise _refuse("its data does not fit its type")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    comment = "".join(char for char in (parts[2] if len(parts) > 2 else "") if char.isprintable())
    return PublicKey(f"{parts[0]} {parts[1]}", comment.strip()[:255], f"SHA256:{digest}")
