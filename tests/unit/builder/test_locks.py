"""What people are told of the content of an environment."""

import shlex

import pytest

from spell_builder import apt, layers, locks
from spell_cli.commands import env

LOCAL = {"version": "CPython 3.11.2"}
IMAGE = LOCAL | {"base": "sha256:1234"}
FARM = (apt.Exact("cow", "2.0", "all", "0" * 64), apt.Exact("farm", "1:1.0~rc1", "amd64", "1" * 64))
PIP = "alpha==1.0 \\\n    --hash=sha256:00\n"
CONDA = 'dependencies:\n- "https://c/linux-64/gamma-1.5-h_0.conda#00"\n'
APT = "--apt cow==2.0 --apt farm==1:1.0~rc1"


@pytest.mark.parametrize(
    ("about", "packages", "rest", "words"),
    [
        (LOCAL, (), PIP, "--python 3.11.2 --pip-req FILE"),
        (LOCAL, FARM, PIP, f"--python 3.11.2 --pip-req FILE {APT}"),
        (IMAGE, FARM, "", f"--python 3.11.2 {APT}"),
        (IMAGE, FARM, CONDA, f"--conda-file FILE {APT}"),
    ],
)
def test_a_lock_begins_with_the_whole_command_that_takes_it(about, packages, rest, words):
    lines = locks.lock("ab" * 32, about, layers.with_apt((), packages, rest)).splitlines()

    assert lines[0] == "# Environment " + "ab" * 32
    assert shlex.split(lines[1], comments=False) == ["#", "spell", "run", *words.split()]
    assert lines[2].startswith("# Base image sha256:1234") is (about is IMAGE)


def test_a_lock_says_where_no_command_is_enough():
    many = tuple(apt.Exact(f"p{number}", "1", "all", "0" * 64) for number in range(201))

    lines = locks.lock("ab" * 32, LOCAL, layers.with_apt((), many, "")).splitlines()

    assert lines[1].count("--apt") == 200
    assert "spell rerun" in lines[2]


def test_system_packages_count_and_are_listed():
    resolved = layers.with_apt(FARM[:1], FARM[1:], PIP)

    assert locks.count(resolved) == 3
    assert env._packages(locks.lock("ab" * 32, IMAGE, resolved)).splitlines() == [
        "alpha==1.0",
        "cow==2.0 (apt)",
        "farm==1:1.0~rc1 (apt)",
    ]
