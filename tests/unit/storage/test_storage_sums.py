"""Checksums of pieces: any part of an object can be checked by itself."""

import hashlib
import os

import pytest

from spell_storage.sums import PIECE_BYTES, Digesting, covering, is_piece


def taken(data, step):
    digesting = Digesting()
    for start in range(0, len(data), step):
        digesting.add(data[start : start + step])
    return digesting


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 5])
@pytest.mark.parametrize("step", [1000, PIECE_BYTES, 3 * PIECE_BYTES])
def test_they_do_not_depend_on_how_bytes_came(size, step):
    data = os.urandom(size)

    digesting = taken(data, step)

    assert (digesting.sha256, digesting.size) == (hashlib.sha256(data).hexdigest(), size)
    assert digesting.sums == taken(data, 12_345).sums
    assert len(digesting.sums) == 4 * -(-size // PIECE_BYTES)


def test_each_piece_is_known_by_its_number_and_no_flipped_bit_passes():
    data = os.urandom(PIECE_BYTES + 10)
    sums = taken(data, 4096).sums
    first, second = data[:PIECE_BYTES], data[PIECE_BYTES:]

    assert is_piece(sums, 0, first)
    assert is_piece(sums, 1, second)
    assert not is_piece(sums, 1, first)
    assert not is_piece(sums, 2, second)
    assert not is_piece(sums, 1, second[:-1] + bytes([second[-1] ^ 1]))
    assert not is_piece(sums, 1, second[:-1])


@pytest.mark.parametrize(
    ("first", "length", "size", "pieces"),
    [
        (0, 1, 1, (0, 1)),
        (0, 1, 3, (0, 3)),
        (5, 10, 10 * PIECE_BYTES, (0, PIECE_BYTES)),
        (PIECE_BYTES - 1, 2, 10 * PIECE_BYTES, (0, 2 * PIECE_BYTES)),
        (PIECE_BYTES, PIECE_BYTES, 2 * PIECE_BYTES + 1, (PIECE_BYTES, 2 * PIECE_BYTES)),
        (2 * PIECE_BYTES, 1, 2 * PIECE_BYTES + 1, (2 * PIECE_BYTES, 2 * PIECE_BYTES + 1)),
    ],
)
def test_a_part_is_read_in_whole_pieces(first, length, size, pieces):
    assert covering(first, length, size) == pieces
