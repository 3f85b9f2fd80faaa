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
