"""Passwords as they are stored: encrypted with a key that is a file beside the data, so that a dump of the database tells nothing."""

import asyncio
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from cryptography.fernet import Fernet, InvalidToken


class Login(NamedTuple):
    """A user name and a password, or a token in its place."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r}, …)"


class UnreadableError(Exception):
    """A password was encrypted with another key than the one that is here."""


class Seal:
    """Encrypts and decrypts; the key is made at the first use."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    async def close(self, place: str, login: Login) -> bytes:
        """The password encrypted, bound to the place and the user name that it is for."""
        cipher = await asyncio.to_thread(self._cipher)
        return cipher.encrypt(_bound(place, login.username) + login.password.encode())

    async def open(self, place: str, username: str, sealed: bytes) -> Login:
        """What was encrypted for this place and user name.

        Raises:
            UnreadableError: it cannot be decrypted, or is from another row.
        """
        cipher = await asyncio.to_thread(self._cipher)
        try:
            told = cipher.decrypt(sealed)
        except InvalidToken:
            raise UnreadableError from None
        bound = _bound(place, username)
        # A row that was moved to another place or user is none that was stored here.
        if not told.startswith(bound):
            raise UnreadableError
        return Login(username, told.removeprefix(bound).decode())

    def _cipher(self) -> Fernet:
        try:
            return Fernet(self._key_file.read_bytes())
        except FileNotFoundError:
            made = self._key_file.with_name(f".{self._key_file.name}.{secrets.token_hex(8)}")
            number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "wb") as file:
                file.write(Fernet.generate_key())
                file.flush()
                os.fsync(number)
            try:
                # Unlike a rename it leaves a key alone that another copy of the service has made in the meantime.
                os.link(made, self._key_file)
            except FileExistsError:
                pass
            finally:
                made.unlink()
            return Fernet(self._key_file.read_bytes())


def _bound(place: str, username: str) -> bytes:
    return f"{place}\n{username}\n".encode()
