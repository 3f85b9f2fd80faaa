"""The order of Debian versions, and which of them a condition means."""

import itertools

import pytest

from spell_builder import debian
from spell_proto import apt

#: As `dpkg --compare-versions` orders them.
ASCENDING = (
    "0~~",
    "0~~a",
    "0~",
    "0",
    "0a",
    "0+b1",
    "0.9",
    "1.0~beta1~svn1245",
    "1.0~beta1",
    "1.0",
    "1.0-1~bpo12+1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1.1",
    "1.0-1.10",
    "1.0-2",
    "1.0.1",
    "1.1-0-1",
    "10.0",
    "1:0.5",
    "7:5.1.6-0+deb12u1",
    "7:5.1.9-0+deb12u1",
)


def test_versions_are_ordered_as_dpkg_orders_them() -> None:
    for (low, lower), (high, higher) in itertools.product(enumerate(ASCENDING), repeat=2):
        assert debian.compare(lower, higher) == (low > high) - (low < high), (lower, higher)


@pytest.mark.parametrize(
    ("left", "right"), [("1.0", "1.00"), ("0:1.0", "1.0"), ("1.0", "1.0-0"), ("1.02", "1.2")]
)
def test_different_texts_may_be_one_version(left: str, right: str) -> None:
    assert debian.compare(left, right) == 0


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("ffmpeg", "7:5.1.6-0+deb12u1"),
        ("ffmpeg>=7:5", "8:1.0-1"),
        ("ffmpeg>7:5.1.6-0+deb12u1", "8:1.0-1"),
        ("ffmpeg<8:1", "7:5.1.9-0+deb12u1"),
        ("ffmpeg<8", None),  # without an epoch it is 0:8
        ("ffmpeg<=7:5.1.6-0+deb12u1", "7:5.1.6-0+deb12u1"),
        ("ffmpeg==7:5.1.6-0+deb12u1", "7:5.1.6-0+deb12u1"),
        ("ffmpeg==9:1", None),
    ],
)
def test_a_condition_means_the_highest_version_that_fits(asked: str, chosen: str | None) -> None:
    offered = ("7:5.1.6-0+deb12u1", "7:5.1.9-0+deb12u1", "8:1.0-1")
    assert debian.best(apt.parse(asked), offered) == chosen
