"""Reading along how many refs a push is about to change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_storage.ssh_relay import CommandCounter, TooManyRefsError


def line(text):
    return b"%04x" % (len(text) + 4) + text


def refs(count):
    return b"".join(line(b"%040d %040d refs/tags/v%d" % (0, 1, number)) for number in range(count))


def fed(counter, data, sizes):
    position = 0
    for size in sizes:
        counter.feed(data[position : position + size])
        position += size
    counter.feed(data[position:])


@given(st.lists(st.integers(1, 300), max_size=50))
def test_as_many_refs_as_allowed_pass_however_they_arrive(sizes):
    data = refs(20) + b"0000" + b"PACK" + refs(100)

    fed(CommandCounter(20), data, sizes)


@given(st.lists(st.integers(1, 300), max_size=50))
def test_one_more_is_refused_however_it_arrives(sizes):
    with pytest.raises(TooManyRefsError):
        fed(CommandCounter(20), refs(21), sizes)


def test_a_line_longer_than_git_sends_is_refused():
    with pytest.raises(TooManyRefsError):
        CommandCounter(20).feed(b"ffff")


@given(st.binary(max_size=2_000))
def test_any_bytes_are_read_without_another_error(data):
    try:
        CommandCounter(1_000).feed(data)
    except TooManyRefsError:
        assert data
