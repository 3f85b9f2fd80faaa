"""Cutting parts into chunks, and what a journal accepts of them."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_proto.journal import PAYLOAD_BYTES_MAX, RecordKind, encode, encode_json
from spell_storage import chunks
from spell_storage.chunks import JournalId, JournalState, Part, accept, cut

ONE = JournalId(1, 0)
RECORDS = st.lists(
    st.tuples(
        st.sampled_from([RecordKind.STDOUT, RecordKind.STDERR, RecordKind.NOTE, RecordKind.GAP]),
        st.binary(max_size=12),
    ),
    max_size=12,
)


def a_part(data, offset, *, fence=1, padding=b"??"):
    """A part as it lies in a request's body, with other bytes around it."""
    return Part(ONE, fence, offset, padding + data + padding, len(padding), len(data))


def joined(pieces):
    return b"".join(chunk.data for chunk in pieces)


@given(RECORDS, st.randoms(use_true_random=False), st.booleans())
def test_any_order_of_overlapping_ranges_adds_up_to_the_journal(records, rng, ended):
    """Ranges that start at a record and stop anywhere are applied until none of them moves the end."""
    encoded = [encode(kind, 7, payload) for kind, payload in records]
    if ended:
        encoded.append(encode_json(RecordKind.END, 8))
    data = b"".join(encoded)
    borders = list(itertools.accumulate(map(len, encoded), initial=0))
    ranges = [(start, rng.randint(start, len(data))) for start in borders]
    ranges += list(itertools.pairwise(borders))
    state, stored = JournalState(fence=1), []

    for _ in range(len(ranges)):
        rng.shuffle(ranges)
        parts = [a_part(data[first:last], first) for first, last in ranges]
        believed = rng.choice([state.end, *borders])
        outcome = accept(state, 1, cut(parts, believed).chunks)
        outcome = accept(outcome.state, 1, cut(parts, outcome.state.end).chunks)
        stored += outcome.stored if believed != state.end else []
        assert outcome.state.end >= state.end
        state = accept(state, 1, cut(parts, state.end).chunks).state

    assert state.end == len(data)
    assert state.sealed == ended
    payloads = {kind: b"".join(payload for known, payload in records if known == kind) for kind, _ in records}
    out, err = payloads.get(RecordKind.STDOUT, b""), payloads.get(RecordKind.STDERR, b"")
    assert (state.stdout_bytes, state.stderr_bytes) == (len(out), len(err))
    assert state.newlines == (out + err).count(b"\n")


def test_parts_that_follow_each_other_become_one_chunk():
    first, second = encode(RecordKind.STDOUT, 1, b"a\n"), encode(RecordKind.STDERR, 2, b"bc")

    pieces = cut([a_part(first, 0), a_part(second, len(first))], 0).chunks

    assert [(chunk.start, chunk.data) for chunk in pieces] == [(0, first + second)]
    assert (pieces[0].stdout_bytes, pieces[0].stderr_bytes, pieces[0].newlines) == (2, 2, 1)


def test_a_chunk_never_grows_beyond_what_a_reader_holds_in_memory():
    record = encode(RecordKind.STDOUT, 1, b"x\n" * 150_000)
    data = record * 20

    pieces = cut([a_part(data[: 5 * len(record)], 0), a_part(data[len(record) :], len(record))], 0).chunks

    assert joined(pieces) == data
    assert all(len(chunk.data) <= chunks.CHUNK_BYTES_MAX for chunk in pieces)
    assert [chunk.start for chunk in pieces[1:]] == [chunk.end for chunk in pieces[:-1]]
    assert sum(chunk.newlines for chunk in pieces) == data.count(b"\n")


def test_a_record_of_the_largest_size_is_a_chunk_of_its_own():
    small, large = encode(RecordKind.NOTE, 1, b"{}"), encode(RecordKind.STDOUT, 1, bytes(PAYLOAD_BYTES_MAX))

    pieces = cut([a_part(small + large + small, 0)], 0).chunks

    assert [chunk.data for chunk in pieces] == [small, large, small]


def test_nothing_is_taken_behind_an_end_marker():
    data = encode_json(RecordKind.END, 1)

    pieces = cut([a_part(data + data, 0), a_part(data, 2 * len(data))], 0).chunks

    assert [(chunk.data, chunk.seals) for chunk in pieces] == [(data, True)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 13,
        encode(RecordKind.STATE, 1, b"{}"),
        encode(RecordKind.PING, 1, b""),
        b"\xff" * 30,
        (PAYLOAD_BYTES_MAX + 1).to_bytes(4, "big") + bytes([RecordKind.STDOUT]) + b"\0" * 8,
    ],
)
def test_bytes_that_no_journal_holds_end_what_is_taken(garbage):
    data = encode(RecordKind.NOTE, 1, b"{}")

    outcome = cut([a_part(data + garbage + data, 0)], 0)

    assert joined(outcome.chunks) == data
    assert outcome.broken == len(data)


def test_a_lower_fence_and_a_sealed_journal_accept_nothing():
    [chunk] = cut([a_part(encode(RecordKind.NOTE, 1, b"{}"), 0)], 0).chunks

    assert accept(JournalState(fence=3), 2, [chunk]).stored == []
    assert accept(JournalState(fence=3, sealed=True), 3, [chunk]).stored == []
    assert len(accept(JournalState(fence=3), 3, [chunk]).stored) == 1


def test_only_chunks_at_the_very_end_are_accepted():
    data = encode(RecordKind.NOTE, 1, b"{}") * 3
    size = len(data) // 3
    [behind] = cut([a_part(data, 0)], size).chunks

    assert accept(JournalState(fence=1), 1, [behind]).stored == []
    assert accept(JournalState(fence=1, end=size), 1, [behind]).state.end == len(data)
    assert accept(JournalState(fence=1, end=2 * size), 1, [behind]).stored == []


def test_inline_bytes_are_counted_for_merging_and_objects_are_not():
    data = encode(RecordKind.NOTE, 1, b"{}")
    [chunk] = cut([a_part(data, 0)], 0).chunks
    state = JournalState(fence=1).with_chunk(chunk)

    assert (state.small_chunks, state.small_bytes) == (1, len(data))


def test_a_cut_starts_at_the_believed_end_whatever_lies_before():
    rng = random.Random(3)
    encoded = [encode(RecordKind.STDOUT, 1, bytes(rng.randrange(9))) for _ in range(20)]
    data = b"".join(encoded)

    for believed in itertools.accumulate(map(len, encoded), initial=0):
        assert joined(cut([a_part(data, 0)], believed).chunks) == data[believed:]
