"""Who waits for a build, and what happens when nobody does any more."""

import asyncio

import pytest

from spell_builder.flight import Flight, Ready

GRACE_SECONDS = 0.05
READY = Ready("k", "/p", cached=False)


@pytest.fixture
def flight():
    made = Flight(GRACE_SECONDS)
    made.ended = []
    made.deserted = lambda: made.ended.append(asyncio.get_running_loop().time())
    return made


async def past_the_grace():
    await asyncio.sleep(GRACE_SECONDS * 3)


async def test_a_flight_is_deserted_a_while_after_the_last_has_left(flight):
    with flight.awaited():
        with flight.awaited():
            pass
        await past_the_grace()
        while_one_waits = list(flight.ended)
    left = asyncio.get_running_loop().time()
    await past_the_grace()

    assert while_one_waits == []
    assert len(flight.ended) == 1
    assert flight.ended[0] - left > GRACE_SECONDS * 0.9


async def test_who_comes_in_time_keeps_it(flight):
    with flight.awaited():
        pass
    with flight.awaited():
        await past_the_grace()
        assert flight.ended == []


async def test_what_is_held_is_never_deserted(flight):
    flight.hold()
    with flight.awaited():
        pass
    await past_the_grace()

    assert flight.ended == []


async def test_what_is_over_is_not_deserted(flight):
    with flight.awaited():
        pass
    flight.land(READY)
    await past_the_grace()
    with flight.awaited():
        pass
    await past_the_grace()

    assert flight.ended == []


async def test_without_a_grace_it_is_deserted_at_once(flight):
    flight._grace_seconds = 0.0
    with flight.awaited():
        pass

    assert len(flight.ended) == 1


def test_a_line_holds_no_password_of_an_address():
    flight = Flight()

    flight.say("Looking in http://bot:hunter2@proxy:3128 and git+https://x.example/r@v1")

    assert [line.text for line in flight.lines] == [
        "Looking in http://…@proxy:3128 and git+https://x.example/r@v1"
    ]
