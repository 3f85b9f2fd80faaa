"""What a person sees of a run whose spot machine is taken away with notice, and does with what it has saved."""

import json
import re
from pathlib import Path

import pytest

from support.standalone import until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="notice")
def _notice(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("spot") / "notice"


@pytest.fixture(scope="module", name="settings")
def _settings(notice) -> dict[str, str]:
    return {"SPELL_SPOT": "1", "SPELL_SPOT_NOTICE": str(notice), "SPELL_SPOT_GRACE_SECONDS": "5"}


def test_an_interrupted_run_keeps_its_files_and_they_can_be_mounted(stack, notice):
    project = stack.repository({"file": "x\n"}, name="project")
    command = (
        "trap 'echo weights > ckpt/model; exit 9' TERM; mkdir ckpt; echo up; while sleep 0.1; do :; done"
    )
    run = stack.start("run", command, cwd=project)
    until(lambda: "up" in stack.spell("logs", "1").stdout.splitlines(), 60, lambda: "it does not start")

    notice.touch()
    output, _ = run.communicate(timeout=60)

    assert run.returncode == 75
    said = output.decode().splitlines()
    assert "💫 This spot machine is about to be taken away: 2 s to end by itself" in said
    assert said[-1] == "✋ Run 1 interrupted"
    assert any("its spot machine was reclaimed" in line for line in said)
    assert stack.spell("wait", "1").rc == 75
    assert "Interrupted" in stack.spell("ps").stdout
    assert re.search(r"its spot machine was reclaimed", stack.spell("info", "1").stdout)
    assert {entry["path"] for entry in json.loads(stack.spell("ls", "runs/1/ckpt", "--json").stdout)} == {
        "model"
    }
    assert stack.spell("cp", "runs/1/ckpt/model", "fetched").rc == 0
    assert (stack.work / "fetched/model").read_text() == "weights\n"

    notice.unlink()
    again = stack.spell("run", "--mount", "runs/1/ckpt:start", "cat start/model", cwd=project)
    assert (again.rc, "weights" in again.stdout.splitlines()) == (0, True), again
