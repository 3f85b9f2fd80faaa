"""What becomes of the permissions of an environment that is finished."""

import stat
from pathlib import Path

import pytest

from spell_builder.directories import Directories, remove
from spell_builder.overlays import LAYER

KEY = "a" * 64


@pytest.fixture(name="finished")
def _finished(tmp_path: Path):
    directories = Directories(tmp_path)
    directories.make()
    new = directories.begin(KEY)
    files = {
        "bin/python": 0o775,
        "lib/private/data": 0o600,
        f"{LAYER}/usr/bin/become": 0o6755,
        f"{LAYER}/etc/secret/key": 0o640,
    }
    for name, mode in files.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_text("x")
        (new / name).chmod(mode)
    (new / LAYER / "etc/secret").chmod(0o710)
    (new / "lib/private").chmod(0o700)
    directories.finish(KEY, "", b"")
    yield directories.path(KEY)
    remove(tmp_path)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("bin/python", 0o555),
        ("lib/private", 0o555),
        ("lib/private/data", 0o400),
        (f"{LAYER}/usr/bin/become", 0o555),
        (f"{LAYER}/etc/secret", 0o510),
        (f"{LAYER}/etc/secret/key", 0o440),
    ],
)
def test_nothing_can_be_written_nor_run_as_somebody_else_and_what_packages_forbid_stays_forbidden(
    finished, name, mode
):
    assert stat.S_IMODE((finished / name).stat().st_mode) == mode
