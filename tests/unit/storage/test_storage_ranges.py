"""Which bytes a Range header asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_storage.ranges import Range, requested


@pytest.mark.parametrize(
    ("header", "size", "wanted"),
    [
        (None, 10, Range(0, 10, partial=False)),
        ("bytes=0-0", 10, Range(0, 1, partial=True)),
        ("bytes=2-4", 10, Range(2, 3, partial=True)),
        ("bytes=2-", 10, Range(2, 8, partial=True)),
        ("bytes=2-99", 10, Range(2, 8, partial=True)),
        ("bytes=-3", 10, Range(7, 3, partial=True)),
        ("bytes=-99", 10, Range(0, 10, partial=True)),
        ("BYTES= 1-2 ", 10, Range(1, 2, partial=True)),
        # Not satisfiable:
        ("bytes=10-", 10, None),
        ("bytes=10-20", 10, None),
        ("bytes=-0", 10, None),
        ("bytes=0-", 0, None),
        ("bytes=-5", 0, None),
        # No single valid range of bytes: the whole.
        ("bytes=4-2", 10, Range(0, 10, partial=False)),
        ("bytes=-", 10, Range(0, 10, partial=False)),
        ("bytes=0-1,3-4", 10, Range(0, 10, partial=False)),
        ("lines=0-1", 10, Range(0, 10, partial=False)),
        ("bytes=a-b", 10, Range(0, 10, partial=False)),
        ("bytes=1-2x", 10, Range(0, 10, partial=False)),
        ("bytes=" + "9" * 50 + "-", 10, Range(0, 10, partial=False)),
    ],
)
def test_a_range_header_is_read_as_rfc_9110_says(header, size, wanted):
    assert requested(header, size) == wanted


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
def test_a_range_never_leaves_the_representation(first, last, size):
    part = requested(f"bytes={first}-{last}", size)

    if part is None:
        assert first >= size
    else:
        assert 0 <= part.first <= part.first + part.length <= size
        if part.partial:
            assert part.content_range(size) == f"bytes {first}-{min(last, size - 1)}/{size}"
