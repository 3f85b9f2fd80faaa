"""Packs of small blobs: what goes in comes out, and nothing else is taken for one."""

import hashlib
import os

import pytest

from spell_proto import blob_packs
from spell_proto.errors import InvalidError


def named(*contents):
    return {hashlib.sha256(data).hexdigest(): data for data in contents}


@pytest.mark.parametrize("contents", [(), (b"",), (b"a", b"", os.urandom(70_000))])
def test_what_was_packed_is_unpacked(contents):
    blobs = named(*contents)

    assert blob_packs.unpack(blob_packs.pack(blobs.items())) == blobs


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        blob_packs.pack([("ab" * 32, b"data")])[:-1],
        blob_packs.pack([("ab" * 32, b"data")]) + b"\0" * 35,
        blob_packs.pack([("ab" * 32, b"x" * (blob_packs.BLOB_BYTES_MAX + 1))]),
        blob_packs.pack((f"{number:064x}", b"") for number in range(blob_packs.PACK_BLOBS_MAX + 1)),
    ],
)
def test_what_is_no_pack_is_refused(body):
    with pytest.raises(InvalidError) as refused:
        blob_packs.unpack(body)

    assert refused.value.code == "pack_invalid"


def fed(arriving, body, step):
    return [pair for at in range(0, len(body), step) for pair in arriving.feed(body[at : at + step])]


@pytest.mark.parametrize("step", [1, 7, 36, 1 << 20])
def test_what_arrives_bit_by_bit_is_given_out_once_it_is_whole(step):
    blobs = named(b"", b"a", os.urandom(5_000))
    arriving = blob_packs.Arriving([*blobs, "ab" * 32])

    assert dict(fed(arriving, blob_packs.pack(blobs.items()), step)) == blobs
    assert arriving.wanted == {"ab" * 32}


def test_of_a_pack_that_breaks_off_what_has_come_counts():
    blobs = list(named(b"first", b"second").items())
    arriving = blob_packs.Arriving(digest for digest, _ in blobs)

    assert arriving.feed(blob_packs.pack(blobs)[:-1]) == blobs[:1]
    assert arriving.wanted == {blobs[1][0]}


def test_a_blob_that_comes_damaged_is_not_given_out_and_stays_wanted():
    good, bad = hashlib.sha256(b"good").hexdigest(), hashlib.sha256(b"bad").hexdigest()
    arriving = blob_packs.Arriving([good, bad])

    assert arriving.feed(blob_packs.pack([(bad, b"bat"), (good, b"good")])) == [(good, b"good")]
    assert arriving.wanted == {bad}


@pytest.mark.parametrize(
    "body",
    [
        blob_packs.pack([("cd" * 32, b"nobody asked")]),
        blob_packs.pack([("ab" * 32, b"x" * (blob_packs.BLOB_BYTES_MAX + 1))])[:36],
        blob_packs.pack([("ab" * 32, b"x"), ("ab" * 32, b"x")]),
        b"<html>nothing of ours, but long enough for an entry</html>",
    ],
)
def test_what_nobody_has_asked_for_is_refused_before_it_is_held(body):
    with pytest.raises(InvalidError) as refused:
        blob_packs.Arriving(["ab" * 32]).feed(body)

    assert refused.value.code == "pack_invalid"


def test_portions_fit_into_packs():
    sizes = [blob_packs.BLOB_BYTES_MAX] * 70 + [0] * 1_200
    packs = blob_packs.portions(enumerate(sizes))

    assert [number for pack in packs for number in pack] == list(range(len(sizes)))
    for pack in packs:
        body = blob_packs.pack((f"{number:064x}", bytes(sizes[number])) for number in pack)
        assert len(body) <= blob_packs.PACK_BYTES_MAX
        assert len(blob_packs.unpack(body)) == len(pack)
    assert len(packs) == 5
