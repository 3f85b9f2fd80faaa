"""A limit that was brought into its range is said to have been."""

import pytest
from aiohttp.test_utils import make_mocked_request

from spell_gateway import asked


@pytest.mark.parametrize(
    ("query", "used", "noted"),
    [("", 50, False), ("?limit=7", 7, False), ("?limit=0", 1, True), ("?limit=1000000000", 1000, True)],
)
def test_another_limit_than_the_one_asked_for_is_noted(query, used, noted):
    request = make_mocked_request("GET", f"/api/runs{query}")

    assert asked.limit(request, 50) == used
    note = asked.limit_note(request, used)

    assert note == ({"Spell-Note": f"limit: {used} is used, 1 to 1000 are allowed"} if noted else {})
