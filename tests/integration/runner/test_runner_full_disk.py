"""The end of an attempt is written down on a disk that is full to the last byte, and stays full. Code for which there
is no room leaves nothing half made.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.full_disk import small_disk

pytestmark = pytest.mark.integration

#: Run where the current directory is a small disk of its own.
ENDING = """
import json, os
from datetime import UTC, datetime
from pathlib import Path
from spell_proto.events import CommandExited, CommandStarted
from spell_proto.journal import Decoder, RecordKind, Totals
from spell_proto.spec import AttemptSpec, EnvironmentRequest, RunSpec
from spell_proto.state import Intent, Reason
from spell_runner import phases
from spell_runner.directory import Directory
from spell_runner.notes import Notes
from spell_runner.shim import launch
from spell_runner.shim.sink import Sink

def fill():
    fd = os.open("fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 4096, 1):
        try:
            while os.write(fd, bytes(size)):
                pass
        except OSError:
            continue
    os.close(fd)

def attempt(number):
    run = RunSpec(command="true", machine_type="CPU", environment=EnvironmentRequest(), env={}, code=None,
                  description="", timeout_seconds=None)
    spec = AttemptSpec(run_id=number, attempt=1, fence=1, owner_id=1, intent=Intent.RUN, spec=run)
    return Directory.take_on(Path("attempts"), spec, spec.model_dump_json().encode(), "boot")

assert os.statvfs(".").f_blocks * os.statvfs(".").f_frsize < 64 << 20, "no small disk"
os.mkdir("attempts")
started, waiting = attempt(1), attempt(2)
launch.make_cancellation(Path("."))
assert launch.take(started.base, 1, 1)
sink = Sink(started / launch.JOURNAL, 1 << 30)
sink.output(RecordKind.STDOUT, b"before")
fill()

now = datetime.now(UTC)
while sink.dropped == 0:
    sink.output(RecordKind.STDOUT, b"x" * 4096)
sink.close()
launch.append(started / launch.CLAIM, {"started_us": 1})
started.note((CommandStarted(at=now),))
started.note((CommandExited(at=now, exit_code=1, exit_cause="exit"),))
notes = Notes(started, lambda: None)
for _ in range(1000):
    notes.line("a line of which there is one too many")
worst = phases.failed(Reason.SAVE_FAILED, chr(1) * 5000)
started.conclude(worst)
notes.last("why")
notes.end(Totals())
started.note((phases.unsealed(worst, now),))
cancelled = launch.cancel(waiting.base)
try:
    attempt(3)
    taken = True
except OSError:
    taken = False

free = os.statvfs(".").f_bavail
again = Directory(started.path)
records = Decoder().feed((started.path / "journal").read_bytes())
print(json.dumps({
    "free": free, "steps": len(again.steps()), "verdict": again.verdict().reason, "cancelled": cancelled,
    "claim": launch.read(waiting.base).pid, "started": launch.read(started.base).started_us, "taken": taken,
    "last": [record.kind.name for record in records][-2:], "first": records[0].payload.decode(),
    "gap": any(record.kind is RecordKind.GAP for record in records), "whole": again.mend()[1],
    "there": sorted(os.listdir("attempts")),
}))
"""


def test_an_attempt_that_was_taken_on_can_be_ended_and_no_other_is_taken_on(tmp_path: Path):
    with small_disk(tmp_path, 4) as inside:
        done = subprocess.run(
            [*inside, sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=60, check=False
        )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "free": 0,
        "steps": 3,
        "verdict": "save_failed",
        "cancelled": True,
        "claim": 0,
        "started": 1,
        "taken": False,
        "last": ["NOTE", "END"],
        "first": "before",
        "gap": True,
        "whole": True,
        "there": ["1-1", "2-1"],
    }


#: Run where the current directory is a small disk of its own; the words are what to import from, and room elsewhere.
COMING = """
import asyncio, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from integration.runner.workshop import Storage
from spell_proto.spec import CodeLocation
from spell_runner.errors import AttemptError
from spell_runner.trees import Trees
from support.shelf import Shelf

KINDS = {"a pack": {f"f{n}": os.urandom(1 << 20) for n in range(6)}, "files": {f"f{n}": bytes(3 << 20) for n in "abc"},
         "little": {"a": b"x"}}

async def main():
    data, room, said = Path.cwd(), Path(sys.argv[2]), {}
    assert os.statvfs(".").f_blocks * os.statvfs(".").f_frsize < 64 << 20, "no small disk"
    storage = Storage(Shelf(room / "shelf.git"))
    async with storage.open(room / "s.sock") as caller:
        trees = Trees(data, caller, set)
        for kind, files in KINDS.items():
            before = os.statvfs(".").f_bavail
            try:
                code = await trees.get(1, CodeLocation(**storage.shelf.code(files)), lambda: None)
                message, reason = (code.lower / "repo/a").read_text(), None
            except AttemptError as error:
                message, reason = error.message.partition("fetched: ")[2], error.reason
            pages = (before - os.statvfs(".").f_bavail) * os.statvfs(".").f_frsize // 4096
            left = [path.name for path in data.rglob("tmp_*")] + os.listdir("trees")
            said[kind] = [reason, message, pages < 16, len(left)]
    print(json.dumps(said))

asyncio.run(main())
"""


def test_code_that_finds_no_room_leaves_nothing_half_made(tmp_path: Path):
    room = Path(tempfile.mkdtemp(dir="/tmp", prefix="sp"))
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        with small_disk(disk, 4) as inside:
            words = [sys.executable, "-c", COMING, str(Path(__file__).parents[2]), str(room)]
            done = subprocess.run([*inside, *words], capture_output=True, text=True, timeout=60, check=False)
    finally:
        shutil.rmtree(room)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "a pack": ["code_fetch", "fatal: write error: No space left on device", True, 0],
        "files": ["code_fetch", "No space left on device", True, 0],
        "little": [None, "x", True, 1],
    }
