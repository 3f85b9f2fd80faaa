"""A run that fills the disk under the whole stack to the last byte: it ends, says why, and the stack goes on."""

import json
import os
import re
import subprocess

import pytest

from support.full_disk import small_disk
from support.stack import short_directory
from support.standalone import SPELL, until

pytestmark = pytest.mark.integration

FILL = "cat /dev/zero > big; echo full"


@pytest.fixture
def spell():
    """Type a command where the stack has a disk of 300 MB to itself."""
    with short_directory() as directory, small_disk(directory, 300) as inside:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SPELL_")}
        environment = clean | {"SPELL_DIR": f"{directory}/d"}

        def call(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*inside, str(SPELL), *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        try:
            yield call
        finally:
            purged = call("down", "--purge", "--yes")
            assert purged.returncode == 0, purged


def run(spell, run_id):
    return json.loads(spell("info", str(run_id), "--json").stdout)


def test_a_run_that_has_filled_the_disk_is_killed(spell):
    cast = spell("run", "--force", "--background", f"{FILL}; sleep 1000")
    assert cast.returncode == 0, cast
    until(lambda: "full" in spell("logs", "1").stdout, 60, lambda: "the disk does not fill")

    killed = spell("kill", "1")
    until(lambda: run(spell, 1)["state"] == "killed", 30, lambda: f"it does not end: {run(spell, 1)}")
    after = spell("run", "--force", "true")

    assert killed.returncode == 0, killed
    assert after.returncode == 0, after
    assert spell("verify").returncode == 0


def test_a_run_that_ends_on_a_full_disk_says_that_its_files_could_not_be_saved(spell):
    ended = spell("run", "--force", FILL)
    after = spell("run", "--force", "true")

    # Whichever of the two writes first: the database or the store.
    said = ended.stderr + ended.stdout
    assert re.search(r"the files could not be saved: the disk of (storage|the server) is full", said)
    assert run(spell, 1)["reason"] == "save_failed"
    assert after.returncode == 0, after
    assert spell("verify").returncode == 0
