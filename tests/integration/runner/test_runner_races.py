"""What a run swaps under our eyes while it is saved is never taken for what it is not."""

import subprocess
import sys
from pathlib import Path

from spell_runner import freezing
from spell_runner.workspace import Abort

#: Twice for each name of the two: there and back.
SWAPS = 100_000
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
