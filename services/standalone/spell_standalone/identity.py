"""The user's SSH key, made once: `python -m spell_standalone.identity PATH` (a process of its own, because the
supervisor would carry the cryptography it needs for ever).
"""

import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

COMMENT = b" spell"


def ensure(path: Path) -> None:
    """Make the ed25519 key `path` and `path.pub` unless they are there."""
    public_path = path.with_name(path.name + ".pub")
    if not path.exists():
        private = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        new = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
        public_path.unlink(missing_ok=True)
        new.rename(path)
    if not public_path.exists():
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        public_path.write_bytes(public + COMMENT + b"\n")


if __name__ == "__main__":
    ensure(Path(sys.argv[1]))
