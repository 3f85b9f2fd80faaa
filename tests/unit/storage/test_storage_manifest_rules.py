"""Which paths an upload may have, and that it is quick to say so of anybody's."""

import hashlib
import time
from datetime import UTC, datetime

import pytest

from spell_proto.errors import InvalidError
from spell_proto.resources import PATH_PARTS_MAX
from spell_proto.views import Manifest, ManifestEntry
from spell_storage import manifests
from spell_storage.manifest_rules import check_paths

AT = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(paths):
    return Manifest(
        entries=tuple(
            ManifestEntry(path=path, size=0, sha256="0" * 64, mode=0o644, modified_at=AT) for path in paths
        )
    )


def refused(*paths):
    with pytest.raises(InvalidError) as error:
        check_paths(manifest(paths))
    return error.value.message


@pytest.mark.parametrize(
    "paths",
    [
        ("a", "a.b", "a-b/c", "a b"),
        ("a/b", "a0", "A"),
        ("é", "e\u0301", "a\nb", "\U0001f4a9", "\\"),
        ("/".join(["d"] * PATH_PARTS_MAX),),
        ("x" * 255,),
    ],
)
def test_what_a_directory_can_hold_is_let_pass(paths):
    check_paths(manifest(paths))


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (("a", "a.b", "a-b", "a!/c", "a/b/c"), "'a/b/c' is below 'a', which is no directory"),
        (("a/b/c", "a/b", "a/b.c"), "'a/b/c' is below 'a/b', which is no directory"),
        (("/".join(["d"] * (PATH_PARTS_MAX + 1)),), "is below more than 255 directories"),
        (("x" * 256,), "is longer than 255 bytes"),
        (("a/\udcff",), "is not valid UTF-8"),
        (("../a",), "is not a path below a resource"),
        (("/a",), "is not a path below a resource"),
        (("a//b",), "is not a path below a resource"),
        (("a/./b",), "is not a path below a resource"),
        (("a\0b",), "is not a path below a resource"),
        (("",), "is not a path below a resource"),
    ],
)
def test_what_no_directory_could_hold_is_refused(paths, why):
    assert why in refused(*paths)


def test_more_than_a_manifest_may_say_is_refused():
    assert "fewer files, or shorter paths" in refused(
        *(f"{'d' * 200}/{'e' * 200}/{n}" for n in range(120_000))
    )


def test_a_link_is_the_same_whoever_brings_it():
    """Its size and SHA-256 are those of what it says, as where a run has made it."""
    link = ManifestEntry(path="l", size=0, sha256="0" * 64, mode=0o777, modified_at=AT, link="é")
    kept = manifests.MANIFEST.validate_json(manifests.of(Manifest(entries=(link,))).data).entries[0]

    assert (kept.size, kept.sha256) == (2, hashlib.sha256("é".encode()).hexdigest())


def test_long_paths_are_looked_at_once_each():
    deep = "/".join(["d" * 14] * (PATH_PARTS_MAX - 1))
    several = manifest([f"{deep}/{number}" for number in range(10_000)])
    deeper = manifest(["a/" * 2040 + str(number) for number in range(2_000)])

    before = time.process_time()
    check_paths(several)
    with pytest.raises(InvalidError):
        check_paths(deeper)

    assert time.process_time() - before < 2
