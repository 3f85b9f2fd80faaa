"""What a run swaps under our eyes while it is saved is never taken for what it is not."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from spell_runner import freezing, outputs, reading, usage
from spell_runner.directory import Directory
from spell_runner.lower import Lower
from spell_runner.shim.launch import UPPER
from spell_runner.workspace import Abort

#: Twice for each name of the two: there and back.
SWAPS = 100_000
#: Where each look does more.
FEWER_SWAPS = 20_000
#: More than all that the run has itself.
SECRET_BYTES = 8 << 20
SECRET = b"somebody else's"
SWAPPING = """
import os, sys
place, outside, swaps = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(place)
for count in range(swaps // 4):
    for name, target in (("file", outside + "/secret"), ("directory", outside)):
        os.symlink(target, "link")
        os.rename(name, "aside")
        os.rename("link", name)
        os.unlink(name)
        os.rename("aside", name)
    if count == 0:
        print("swapping", flush=True)
"""


def test_of_files_and_directories_swapped_for_links_nothing_from_outside_is_frozen(tmp_path):
    outside, upper, frozen = (tmp_path / name for name in ("outside", "upper", "frozen"))
    for path in (outside, upper / "directory"):
        path.mkdir(parents=True)
    (outside / "secret").write_bytes(SECRET)
    (upper / "file").write_bytes(b"mine")
    (upper / "directory/inside").write_bytes(b"mine")

    words = [sys.executable, "-c", SWAPPING, str(upper), str(outside), str(SWAPS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"swapping\n"
        looks = 0
        while swapper.poll() is None:
            target = Path(f"{frozen}-{looks}")
            freezing.link_tree(str(upper), target, Abort())
            looks += 1
            for path in target.rglob("*"):
                assert path.name != "secret", "a link was followed"
                if path.is_file() and not path.is_symlink():
                    assert path.read_bytes() == b"mine"

    assert (swapper.returncode, looks > 100) == (0, True)


@pytest.fixture
def swapped(tmp_path):
    """An upper layer in which a file and a directory are swapped for links that lead out of it, until it is over."""
    outside, upper = tmp_path / "outside", tmp_path / UPPER
    for path in (outside, upper / "directory"):
        path.mkdir(parents=True)
    (outside / "secret").write_bytes(SECRET)
    # By the names that a path has which was found before the swap.
    (outside / "inside").write_bytes(SECRET * (SECRET_BYTES // len(SECRET)))
    (upper / "file").write_bytes(b"mine")
    (upper / "directory/inside").write_bytes(b"mine")
    words = [sys.executable, "-c", SWAPPING, str(upper), str(outside), str(FEWER_SWAPS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"swapping\n"
        yield upper, swapper
        swapper.kill()


def test_of_files_and_directories_swapped_for_links_nothing_from_outside_is_saved(swapped):
    upper, swapper = swapped
    read = looks = 0

    while swapper.poll() is None:
        changes = outputs.in_overlay(upper, Lower.of(), Abort())
        for found in changes.found:
            assert not found.path.endswith("secret"), "a link was followed"
            if found.link is None:
                with contextlib.suppress(reading.LeftOutError), reading.opened(found) as file:
                    assert file.read() == b"mine"
                    read += 1
        looks += 1

    assert (swapper.returncode, looks > 20, read > 20) == (0, True, True)


def test_of_files_and_directories_swapped_for_links_nothing_outside_is_measured(swapped):
    upper, swapper = swapped
    looks = 0

    while swapper.poll() is None:
        found = usage._walked(Directory(upper.parent), [UPPER], Abort())
        assert (found.bytes < SECRET_BYTES, found.files <= 8) == (True, True)
        looks += 1

    assert (swapper.returncode, looks > 20) == (0, True)
