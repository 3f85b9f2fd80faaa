"""A moment is found in a journal however that is cut into pieces."""

import pytest

from spell_gateway.moments import Moments
from spell_proto.journal import HEADER, RecordKind, encode

JOURNAL = [encode(RecordKind.STDOUT, at_us, b"x" * (at_us % 7)) for at_us in range(10, 40, 3)]
WHOLE = b"".join(JOURNAL)


def placed(moments, pieces):
    """After how many bytes each of some moments is."""
    going, found, sent = Moments(), [], 0
    for piece in pieces:
        data = piece
        while len(found) < len(moments) and (at := going.before(data, moments[len(found)])) is not None:
            sent, data = sent + at, data[at:]
            found.append(sent)
        sent += len(data)
    return found


@pytest.mark.parametrize("moments", [[0], [10], [15], [15, 15, 16], [12, 30], [39]])
def test_a_moment_is_before_the_first_record_that_is_later(moments):
    expected = [sum(len(one) for at, one in enumerate(JOURNAL) if 10 + 3 * at <= at_us) for at_us in moments]

    assert placed(moments, [WHOLE]) == [at for at in expected if at < len(WHOLE)]


@pytest.mark.parametrize("size", [1, 2, HEADER.size - 1, HEADER.size, HEADER.size + 1, 20, 50])
def test_in_pieces_it_is_between_records_all_the_same(size):
    pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
    starts = [sum(map(len, JOURNAL[:count])) for count in range(len(JOURNAL))]

    (at,) = placed([10], pieces) or [starts[1]]

    assert at in starts[1:]
