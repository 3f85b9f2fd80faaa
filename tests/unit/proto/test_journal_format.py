"""The journal format survives any cut of its bytes."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from spell_proto import journal
from spell_proto.journal import Decoder, RecordKind, encode, encode_json, whole_records

RECORDS = st.lists(
    st.tuples(st.sampled_from(list(RecordKind)), st.integers(0, 2**60), st.binary(max_size=200)), max_size=20
)


@given(RECORDS, st.lists(st.integers(1, 50), min_size=1, max_size=50))
def test_records_come_back_however_the_stream_is_cut(records, cuts):
    data = b"".join(encode(*record) for record in records)
    decoder, got, position = Decoder(), [], 0
    for number in range(len(data)):
        size = cuts[number % len(cuts)]
        got.extend(decoder.feed(data[position : position + size]))
        position += size

    assert [(record.kind, record.at_us, record.payload) for record in got] == records


@given(RECORDS, st.integers(0, 400))
def test_a_torn_tail_is_found(records, cut):
    """What counts as whole is exactly the records that end before the cut."""
    encoded = [encode(*record) for record in records]
    data = b"".join(encoded)[:cut]

    whole = whole_records(data)

    ends = [0]
    for record in encoded:
        ends.append(ends[-1] + len(record))
    assert whole == max(end for end in ends if end <= len(data))


def test_a_length_above_the_limit_is_refused():
    bad = journal.HEADER.pack(journal.PAYLOAD_BYTES_MAX + 1, RecordKind.STDOUT, 0)
    with pytest.raises(ValueError, match="at most"):
        Decoder().feed(bad)


def test_json_payloads_are_objects():
    record = Decoder().feed(encode_json(RecordKind.NOTE, 5, level="info", text="ü"))[0]
    assert record.json() == {"level": "info", "text": "ü"}
