"""Kill -9 of each service at a random moment of a run: it ends Complete, ran once, and log and files are whole."""

import hashlib
import random
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.standalone import Stack, prepared

pytestmark = pytest.mark.chaos

SERVICES = ("scheduler", "builder", "runner", "storage", "gateway", "nats", "postgres")
LINES = 400
# Says what it prints and writes, so that a test can know every byte beforehand; about two seconds of work.
COMMAND = f"""
echo started >> "$COUNT"
for i in $(seq {LINES}); do
  echo "line $i of the output"; echo "line $i of the errors" >&2; echo "row $i" >> rows.txt; sleep 0.005
done
echo "last words"
"""
STDOUT = "".join(f"line {number} of the output\n" for number in range(1, LINES + 1)) + "last words\n"
STDERR = "".join(f"line {number} of the errors\n" for number in range(1, LINES + 1))
ROWS = "".join(f"row {number}\n" for number in range(1, LINES + 1))
MOMENT_SECONDS_MAX = 2.5


@pytest.fixture(scope="module", name="stack")
def _stack() -> Iterator[Stack]:
    """One stack for all: what one crash leaves behind, the next run has to live with."""
    with prepared(slots=4) as stack:
        stack.up()
        yield stack


@pytest.fixture(scope="module", name="marks")
def _marks() -> Iterator[Path]:
    """Where commands leave a mark that they have started: outside what a run saves, and outside its own /tmp."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="spell-marks-") as directory:
        yield Path(directory)


def _strike(stack: Stack, marks: Path, strike, seed: int, *options: str) -> tuple[int, int, str, str]:
    """Cast a run that is followed from the start, strike at a random moment; (run id, exit code, stdout, stderr)."""
    delay = random.Random(seed).uniform(0, MOMENT_SECONDS_MAX)
    count = marks / f"count-{seed}"
    process = stack.start("run", "-f", "--env", f"COUNT={count}", *options, COMMAND)
    out: dict[str, bytes] = {}

    def drain(name: str) -> None:
        out[name] = getattr(process, name).read()

    readers = [threading.Thread(target=drain, args=(name,)) for name in ("stdout", "stderr")]
    for reader in readers:
        reader.start()
    time.sleep(delay)  # the random moment itself
    strike()
    code = process.wait(120)
    for reader in readers:
        reader.join()
    run_id = stack.json("ps", "-n", "1")[0]["id"]
    assert count.read_text() == "started\n", f"seed {seed}: the command did not run exactly once"
    return run_id, code, out["stdout"].decode(), out["stderr"].decode()


def _lines_of(expected: str, shown: str) -> str:
    """Of everything shown, the lines that the command wrote: in order, with repetitions, without those of ours."""
    own = set(expected.splitlines())
    return "".join(line + "\n" for line in shown.splitlines() if line in own)


def _check_whole(stack: Stack, run_id: int, code: int, stdout: str, stderr: str, seed: int) -> None:
    where = f"seed {seed}\n{stack.logs()}"
    run = stack.until_final(run_id)
    assert run["state"] == "complete", f"{run} {where}"
    assert code == 0, where
    assert _lines_of(STDOUT, stdout) == STDOUT, f"the follower has gaps or repetitions: {where}"
    assert _lines_of(STDERR, stderr) == STDERR, f"the follower's errors have gaps or repetitions: {where}"
    log = stack.spell("logs", str(run_id))
    assert _lines_of(STDOUT, log.stdout) == STDOUT, f"the stored output is not whole: {where}"
    assert _lines_of(STDERR, log.stderr) == STDERR, f"the stored errors are not whole: {where}"
    target = stack.work / f"out-{seed}"
    copied = stack.spell("cp", f"runs/{run_id}", str(target))
    assert copied.rc == 0, copied
    rows = (target / "rows.txt").read_text()
    assert hashlib.sha256(rows.encode()).hexdigest() == hashlib.sha256(ROWS.encode()).hexdigest(), where
    stack.verify()


@pytest.mark.parametrize("service", SERVICES)
def test_a_run_survives_the_death_of_a_service(stack, marks, service):
    seed = random.SystemRandom().randrange(10**6)

    # The builder is struck while it may be building: an environment that nobody has asked for yet.
    options = ("--pip", "iniconfig==2.0.0") if service == "builder" else ()

    run_id, code, stdout, stderr = _strike(stack, marks, lambda: stack.kill9(service), seed, *options)

    _check_whole(stack, run_id, code, stdout, stderr, seed)
    stack.until_running(service)


def test_a_run_survives_the_loss_of_all_messages(stack, marks):
    """NATS dies and comes back without any of its data."""
    seed = random.SystemRandom().randrange(10**6)

    run_id, code, stdout, stderr = _strike(stack, marks, stack.wipe_nats, seed)

    _check_whole(stack, run_id, code, stdout, stderr, seed)


def test_runs_survive_every_service_dying_one_after_the_other(stack, marks):
    """Four runs at once while one service after another dies, some twice, and the messages with them."""
    choose = random.Random(seed := random.SystemRandom().randrange(10**6))
    counts = [marks / f"many-{number}" for number in range(4)]
    ids = [stack.cast("--env", f"COUNT={count}", COMMAND) for count in counts]
    for _ in range(8):
        victim = choose.choice([*SERVICES, "messages"])
        if victim == "messages":
            stack.wipe_nats()
        else:
            stack.kill9(victim)
        time.sleep(choose.uniform(0, 0.4))  # the next random moment

    runs = [stack.until_final(run_id) for run_id in ids]

    assert [run["state"] for run in runs] == ["complete"] * 4, f"seed {seed}: {runs}\n{stack.logs()}"
    assert [count.read_text() for count in counts] == ["started\n"] * 4, f"seed {seed}"
    stack.verify()


def test_a_run_survives_the_death_of_the_supervisor(stack, marks):
    """The whole stack goes with it, the run does not; the next `spell up` takes it up again."""
    seed = random.SystemRandom().randrange(10**6)
    count = marks / "supervised"
    run_id = stack.cast("--env", f"COUNT={count}", COMMAND)
    stack.kill9("supervisor")
    stack.up()

    assert stack.until_final(run_id)["state"] == "complete", stack.logs()
    assert count.read_text() == "started\n", f"seed {seed}"
    log = stack.spell("logs", str(run_id))
    assert log.stdout.count("of the output") == LINES
    stack.verify(run_id)


def test_every_service_drains_on_sigterm_and_exits_0(stack, marks):
    """`spell down` while a run is going on: all services leave in order, the run goes on and is taken up again."""
    run_id = stack.cast("--env", f"COUNT={marks / 'drained'}", COMMAND)
    down = stack.spell("down")
    assert down.rc == 0, down
    endings = dict(
        re.findall(r"INFO (\w+) was stopped and (.*)", (stack.data / "logs/supervisor.log").read_text())
    )
    assert endings == dict.fromkeys(SERVICES, "ended with exit code 0")
    stack.up()

    assert stack.until_final(run_id)["state"] == "complete", stack.logs()
    assert (marks / "drained").read_text() == "started\n"
    stack.verify(run_id)
