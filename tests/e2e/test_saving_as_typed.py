"""What a person types about saving: what to leave out, and what a run has made while it goes on."""

import json
import re
from pathlib import Path

import pytest

from support.standalone import until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    return stack.repository({"file": "x\n", ".spellignore": "*.tmp\n/cache/\n"}, name="project")


def listed(stack, path: str) -> set[str]:
    result = stack.spell("ls", path, "--json")
    assert result.rc == 0, result
    return {entry["path"] for entry in json.loads(result.stdout)}


def test_what_is_named_is_not_saved(stack, project):
    command = "mkdir cache; touch cache/a b.tmp best.tmp c.bin d; echo made"
    result = stack.spell("run", "--no-save", "*.bin", "--no-save", "!best.tmp", command, cwd=project)

    assert result.rc == 0, result
    assert "Not saved: 3 files (left out by .spellignore and --no-save)" in result.stdout
    run_id = re.search(r"Casting spell #(\d+)", result.stdout)[1]
    assert listed(stack, f"runs/{run_id}") == {"best.tmp", "d"}
    assert re.search(r"Not Saved +\*\.bin\n", stack.spell("info", run_id).stdout)


def test_what_is_neither_file_nor_link_is_left_out_and_named(stack, project):
    odd = "import socket; socket.socket(socket.AF_UNIX).bind('sock')"
    command = f'mkfifo pipe; python3 -c "{odd}"; echo x > kept; echo made'

    result = stack.spell("run", command, cwd=project)

    assert result.rc == 0, result
    run_id = re.search(r"Casting spell #(\d+)", result.stdout)[1]
    notes = [f"Not saved: '/spell/project/{name}' (neither a file nor a link)" for name in ("pipe", "sock")]
    assert [line for line in result.stdout.splitlines() if "Not saved" in line] == [
        f"💫 {note}" for note in notes
    ]
    shown = stack.spell("info", run_id).stdout
    assert [line.strip() for line in shown.splitlines() if line.strip() in notes] == notes
    assert re.search(rf"Saved Files +1 file, 2 bytes, as runs/{run_id}\n", shown)
    told = stack.json("info", run_id)
    assert (told["saved_changed"], told["save_notes"]) == (0, notes)
    assert listed(stack, f"runs/{run_id}") == {"kept"}


def test_a_checkpoint_is_saved_mounted_and_outlives_a_kill(stack, project):
    command = "mkdir ckpt; echo weights > ckpt/model; echo up; while sleep 0.1; do :; done"
    started = stack.spell("run", "--background", command, cwd=project)
    run_id = re.search(r"Casting spell #(\d+)", started.stdout)[1]
    until(lambda: "up" in stack.spell("logs", run_id).stdout, 20, lambda: stack.spell("info", run_id).stdout)

    saved = stack.spell("save", run_id)

    assert saved.rc == 0, saved
    assert saved.stdout.startswith(f"Saved runs/{run_id}@1: 1 file, 8 bytes, ")
    assert f"runs/{run_id}@1: 1 file" in stack.spell("info", run_id).stdout
    assert listed(stack, f"runs/{run_id}@1/ckpt") == {"model"}
    assert stack.spell("run", "-m", f"runs/{run_id}@1/ckpt:in", "cat in/model", cwd=project).rc == 0
    assert stack.spell("kill", run_id).rc == 0
    assert stack.spell("wait", run_id).rc == 137
    unready = stack.spell("run", "-m", f"runs/{run_id}", "true", cwd=project)
    assert f"its last snapshot is runs/{run_id}@1" in unready.stderr
    refused = stack.spell("ls", f"runs/{run_id}")
    assert (refused.rc, "was killed; no outputs" in refused.stderr) == (1, True)
    assert listed(stack, f"runs/{run_id}@1") == {"ckpt"}
    after = stack.spell("run", "-m", f"runs/{run_id}@1/ckpt:in", "cat in/model", cwd=project)
    assert (after.rc, "weights" in after.stdout) == (0, True)
    late = stack.spell("save", run_id)
    assert (
        late.rc,
        f"run {run_id} is killed; a snapshot is taken of one that is running" in late.stderr,
    ) == (1, True)
    nothing = stack.spell("ls", f"runs/{run_id}@2")
    assert (nothing.rc, "no such file or resource" in nothing.stderr) == (1, True)
