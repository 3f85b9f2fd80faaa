"""A token is believed for a few seconds and no longer, and every refusal reads the same."""

from datetime import UTC, datetime

import pytest

from spell_gateway.accounts import new_token, token_digest
from spell_gateway.auth import BELIEVED_SECONDS, KNOWN_MAX, Authenticator, UnknownCallerError
from spell_gateway.shapes import User

ADA = User(id=1, name="ada", created_at=datetime(2026, 1, 1, tzinfo=UTC))


class Table:
    """Tokens, and how often they were asked for."""

    def __init__(self, *tokens):
        self.digests = {token_digest(token) for token in tokens}
        self.asked = 0
        self.now = 0.0

    async def look_up(self, digest):
        self.asked += 1
        return ADA if digest in self.digests else None


def made(*tokens):
    table = Table(*tokens)
    return table, Authenticator(table.look_up, clock=lambda: table.now)


async def test_a_known_token_is_not_looked_up_again_at_once():
    token = new_token()
    table, authenticator = made(token)

    users = [await authenticator.user(f"Bearer {token}") for _ in range(5)]

    assert users == [ADA] * 5
    assert table.asked == 1


async def test_a_deleted_token_is_refused_within_five_seconds():
    token = new_token()
    table, authenticator = made(token)
    await authenticator.user(f"Bearer {token}")
    table.digests.clear()

    table.now += BELIEVED_SECONDS + 0.1

    assert BELIEVED_SECONDS < 5
    with pytest.raises(UnknownCallerError):
        await authenticator.user(f"Bearer {token}")


async def test_a_token_deleted_here_is_refused_at_once():
    token = new_token()
    table, authenticator = made(token)
    await authenticator.user(f"bearer {token}")
    table.digests.clear()

    authenticator.forget(token_digest(token))

    with pytest.raises(UnknownCallerError):
        await authenticator.user(f"Bearer {token}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        f"Basic {new_token()}",
        "Bearer spell_x",
        "Bearer " + "x" * 10_000,
    ],
)
async def test_what_is_no_token_is_refused_without_a_look_into_the_database(header):
    table, authenticator = made()

    with pytest.raises(UnknownCallerError):
        await authenticator.user(header)

    assert table.asked == 0


async def test_a_flood_of_wrong_tokens_does_not_fill_the_memory():
    _, authenticator = made()

    for _ in range(KNOWN_MAX + 50):
        with pytest.raises(UnknownCallerError):
            await authenticator.user(f"Bearer {new_token()}")

    assert len(authenticator._known) == KNOWN_MAX


def test_a_token_is_long_and_recognisable():
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(token.startswith("spell_") and len(token) >= 6 + 43 for token in tokens)
