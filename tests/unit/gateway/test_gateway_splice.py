"""However pieces of a journal arrive, what is taken is the journal, in order, once, and in whole records."""

from hypothesis import given
from hypothesis import strategies as st

from spell_gateway.splice import Gap, Next, Old, Splice, place
from spell_proto.journal import RecordKind, encode, whole_records

RECORDS = st.lists(st.binary(max_size=40), min_size=1, max_size=30)
SMALL = st.integers(min_value=0, max_value=200)


def journal_of(payloads):
    return b"".join(encode(RecordKind.STDOUT, index, payload) for index, payload in enumerate(payloads))


@given(position=SMALL, offset=SMALL, length=SMALL)
def test_a_piece_is_old_or_next_or_behind_a_gap(position, offset, length):
    match place(position, offset, length):
        case Old():
            assert offset + length <= position
        case Next(skip):
            assert 0 <= skip < length
            assert offset + skip == position
        case Gap(missing):
            assert missing > 0
            assert position + missing == offset


@given(data=st.data(), payloads=RECORDS)
def test_lost_repeated_reordered_and_overlapping_pieces_give_the_journal(data, payloads):
    journal = journal_of(payloads)
    cut = st.integers(min_value=0, max_value=len(journal))
    splice = Splice(held_bytes_max=data.draw(st.sampled_from([64, 500, 10**6])))
    got, stored = b"", 0

    for _ in range(data.draw(st.integers(min_value=1, max_value=25))):
        start, end = sorted((data.draw(cut), data.draw(cut)))
        splice.offer(start, journal[start:end])
        if data.draw(st.booleans()):
            taken = splice.take(len(got))
            assert whole_records(taken) == len(taken)
            got += taken
        if data.draw(st.booleans()):
            # Storage has everything up to some record, and a follower that misses something reads it.
            stored = max(stored, whole_records(journal[: data.draw(cut)]))
            if len(got) < splice.end:
                got += journal[len(got) : stored]
        assert got == journal[: len(got)]
    splice.offer(0, b"")
    got += splice.take(len(got))
    got += journal[len(got) :]

    assert got == journal


@given(payloads=RECORDS, sizes=st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=20))
def test_pieces_in_order_pass_without_help(payloads, sizes):
    journal = journal_of(payloads)
    splice, got, at = Splice(), b"", 0

    for index in range(len(journal)):
        size = sizes[index % len(sizes)]
        splice.offer(at, journal[at : at + size])
        got += splice.take(len(got))
        at += size
        if at >= len(journal):
            break

    assert got == journal
    assert splice.end == len(journal)


def test_what_does_not_fit_is_dropped_but_not_forgotten():
    splice = Splice(held_bytes_max=100)
    journal = journal_of([b"x" * 60, b"y" * 60])
    half = len(journal) // 2

    splice.offer(0, journal[:half])
    splice.offer(half, journal[half:])

    assert splice.take(0) == journal[:half]
    assert splice.take(half) == b""
    assert splice.end == len(journal)


def test_what_is_no_journal_is_left_to_storage():
    splice = Splice()
    garbage = b"\xff" * (2 << 20)

    splice.offer(0, garbage)

    assert splice.take(0) == b""
    assert splice.take(0) == b""
    assert splice.end == len(garbage)
