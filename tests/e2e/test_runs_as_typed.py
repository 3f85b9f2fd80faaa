"""What a person types, against a whole stack: the run's life, its log, its files, its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from support.standalone import prepared, until

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    return stack.repository({"file": "running on Spell!\n", "sub/inner.txt": "inner\n"}, name="project")


def test_the_transcript_of_a_first_run_is_the_documented_one(stack, project):
    """Plain output, one line per entry, with the lines that programs look for."""
    result = stack.spell("run", "cat", "file", cwd=project)

    assert result.rc == 0, result
    run_id = re.search(r"Casting spell #(\d+)", result.stdout)[1]
    assert [re.sub(r"time: \S+", "time: T", line) for line in result.stdout.splitlines()] == [
        f"💫 Casting spell #{run_id}…",
        "✨ Stop viewing logs with ^C",
        "✨ Run created -- waiting for a CPU machine.",
        "✨ Run is building",
        "Machine acquired -- commencing run",
        "Retrieving cached environment...",
        "Python alone, without packages: --framework and --pip add some (spell frameworks lists the first)",
        "✨ Run is running",
        "running on Spell!",
        "✨ Run is saving",
        "Scanning for modified or new files from the run",
        "No modified or new files found",
        "✨ Run is pushing",
        "Saving build environment for future runs",
        "🎉 Total run time: T",
        f"🎉 Run {run_id} complete",
    ]


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (("cat", "file"), "running on Spell!"),
        (("--", "cat", "file"), "running on Spell!"),
        (("cat file | wc -l",), "1"),
        (("python", "-c", "print(1 + 1)"), "2"),
        (("echo", "--pip", "six", "$HOME"), "--pip six $HOME"),
        (("echo $0 && test -t 0 || echo no terminal",), "no terminal"),
    ],
)
def test_a_command_does_what_it_says(stack, project, words, output):
    result = stack.spell("run", "-f", *words, cwd=project)

    assert result.rc == 0, result
    assert output in result.stdout.splitlines()


def test_an_option_after_a_quoted_command_is_refused_with_the_corrected_line(stack, project):
    before = len(stack.json("ps", "-n", "500"))
    result = stack.spell("run", "python x.py", "-t", "V100", cwd=project)

    assert result.rc == 2
    assert (
        "spell run -t V100 'python x.py'" in result.stderr
        or 'spell run -t V100 "python x.py"' in result.stderr
    )
    assert len(stack.json("ps", "-n", "500")) == before


def test_a_second_push_of_a_known_commit_does_not_happen(stack):
    project = stack.repository({"file": "x"}, name="pushed")
    first = stack.spell("run", "true", cwd=project)
    second = stack.spell("run", "true", cwd=project, environment={"GIT_SSH_COMMAND": "false"})

    assert (first.rc, second.rc) == (0, 0), (first, second)
    stack.commit(project, {"file": "y"})
    third = stack.spell("run", "true", cwd=project, environment={"GIT_SSH_COMMAND": "false"})
    assert third.rc == 1, "a new commit has to be pushed, so a broken ssh is noticed"
    assert "Push to Spell remote failed" in third.stderr


def test_a_run_starts_in_the_subdirectory_and_its_files_are_relative_to_the_repository(stack, project):
    """New and modified files are saved, unchanged ones are not, whatever directory they are in."""
    command = (
        "pwd; cat inner.txt; echo new > made.txt; echo more >> ../file; touch inner.txt; mkdir -p /spell/results; "
        "echo far > /spell/results/far.txt; mkdir d; echo deep > d/deep.bin; chmod 755 d/deep.bin"
    )
    result = stack.spell("run", "-f", command, cwd=project / "sub")
    run_id = re.search(r"#(\d+)", result.stdout)[1]

    assert "/spell/project/sub" in result.stdout.splitlines()
    listed = stack.json("ls", f"runs/{run_id}")
    target = stack.work / "fetched"
    copied = stack.spell("cp", f"runs/{run_id}", str(target))
    assert copied.rc == 0, copied
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {
        "sub/made.txt": "new\n",
        "file": "running on Spell!\nmore\n",
        "results/far.txt": "far\n",
        "sub/d/deep.bin": "deep\n",
    }
    assert os.access(target / "sub/d/deep.bin", os.X_OK)
    assert {entry["path"].split("/")[0] for entry in listed} == {"sub", "file", "results"}
    assert (project / "file").read_text() == "running on Spell!\n"
    assert stack.json("info", run_id)["saved_files"] == 4


def test_a_command_that_fails_is_complete_with_its_exit_code_and_its_files_are_kept(stack, project):
    result = stack.spell("run", "-f", "echo kept > kept.txt; exit 66", cwd=project)
    run_id = re.search(r"#(\d+)", result.stdout)[1]

    assert result.rc == 66
    run = stack.run(int(run_id))
    assert (run["state"], run["exit_code"], run["saved_files"]) == ("complete", 66, 1)
    assert run["started_at"]
    assert run["ended_at"] >= run["started_at"]
    assert "Complete (66)" in stack.spell("ps").stdout
    signalled = stack.spell("run", "-f", "kill -USR1 $$", cwd=project)
    assert signalled.rc == 128 + signal.SIGUSR1


def test_every_byte_of_a_long_log_comes_back(stack):
    """Twenty megabytes of both streams, invalid UTF-8 and a last line without its end, live and afterwards."""
    code = (
        "import os, sys\n"
        "for i in range(20000):\n"
        "  os.write(1, (b'%07d ' % i) + b'x' * 491 + b'\\xff\\n'); os.write(2, b'e%06d ' % i + b'y' * 492 + b'\\n')\n"
        "os.write(1, b'the end')\n"
    )
    process = stack.start("run", "-f", "python", "-c", code)
    live, _ = process.communicate(timeout=120)
    run_id = re.search(rb"#(\d+)", live)[1].decode()
    expected = b"".join(b"%07d " % i + b"x" * 491 + b"\xff\n" for i in range(20000)) + b"the end"

    assert process.returncode == 0
    assert expected in live, "the follower's stdout has every byte in order"
    for stream, size, last in (("stdout", len(expected), b"the end"), ("stderr", 20000 * 501, b"y\n")):
        raw = _raw_log(stack, run_id, stream)
        assert (len(raw), raw.endswith(last)) == (size, True)
    assert _raw_log(stack, run_id, "stdout") == expected
    assert _raw_log(stack, run_id, "stdout", (1_000_003, 1_000_102)) == expected[1_000_003:1_000_103]
    stack.verify(int(run_id))


def test_the_last_lines_of_a_log_are_that_many(stack):
    run_id = str(stack.cast("for i in 1 2 3 4 5 6; do echo part $i; done; printf unfinished"))
    stack.until_final(int(run_id))
    everything = stack.spell("logs", run_id).stdout.splitlines()

    for count in (1, 2, 8, 9, 11):
        assert stack.spell("logs", "-n", str(count), run_id).stdout.splitlines() == everything[-count:]
    assert stack.spell("logs", "-n", "1000", run_id).stdout.splitlines() == everything


def _raw_log(stack, run_id, stream, part=None):
    client = stack.client
    headers = {"Authorization": f"Bearer {client['token']}"}
    if part:
        headers["Range"] = f"bytes={part[0]}-{part[1]}"
    url = f"{client['url']}/api/runs/{run_id}/log?stream={stream}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        assert answer.status == (206 if part else 200)
        return answer.read()


def test_stop_reaches_every_process_and_saves_and_kill_saves_nothing(stack, project):
    """Grandchildren and daemons too; TERM first, KILL after the grace period."""
    command = (
        "echo before > saved.txt; (trap '' TERM; setsid sleep 301 & setsid sh -c 'sleep 302 & sleep 303'; wait) & "
        "trap 'echo asked >> saved.txt; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    )
    stopped, killed = (stack.cast(command, cwd=project) for _ in range(2))
    for run_id in (stopped, killed):
        until(lambda run_id=run_id: "ready" in stack.spell("logs", str(run_id)).stdout, 20, stack.logs)
    result = stack.spell("stop", str(stopped))
    assert result.stdout.strip() == (
        f"Stopping run {stopped}. Use 'spell logs -f {stopped}' to view logs while the job finishes."
    )
    assert stack.spell("kill", str(killed)).stdout.strip() == str(killed)

    assert stack.spell("wait", str(stopped)).rc == 0
    assert stack.spell("wait", str(killed)).rc == 137
    assert (stack.run(stopped)["state"], stack.run(stopped)["reason"]) == ("stopped", "stopped_by_user")
    assert stack.run(killed)["state"] == "killed"
    target = stack.work / "after-stop"
    assert stack.spell("cp", f"runs/{stopped}", str(target)).rc == 0
    assert (target / "saved.txt").read_text() == "before\nasked\n"
    refused = stack.spell("ls", f"runs/{killed}")
    assert refused.rc == 1
    assert "was killed" in refused.stderr
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"sleep 30[123]", listing), "something of a run is still alive"
    again = stack.spell("stop", str(stopped))
    assert (again.rc, "stopped" in again.stdout + again.stderr) == (0, True)


def test_a_time_limit_stops_a_run(stack, project):
    result = stack.spell("run", "-f", "--timeout", "1s", "echo x > x.txt; sleep 60", cwd=project)
    run_id = int(re.search(r"#(\d+)", result.stdout)[1])

    assert result.rc == 0
    run = stack.run(run_id)
    assert (run["state"], run["reason"], run["saved_files"]) == ("stopped", "timeout", 1)


def test_the_machines_slots_are_never_exceeded_and_the_oldest_waits_least(stack):
    ids = [stack.cast("sleep 0.7") for _ in range(5)]
    most = 0
    started: list[int] = []
    while len(started) < 5:
        runs = {run["id"]: run for run in stack.json("ps", "-n", "5")}
        active = [i for i in ids if runs[i]["state"] not in {"requested", "complete"}]
        most = max(most, len(active))
        started += [i for i in ids if runs[i]["state"] != "requested" and i not in started]

    assert most <= 2
    assert started == sorted(started)
    for run_id in ids:
        assert stack.until_final(run_id)["state"] == "complete"
    stack.verify()


def test_a_stop_while_waiting_means_it_never_ran(stack):
    blockers = [stack.cast("sleep 30") for _ in range(2)]
    waiting = stack.cast("echo never")
    assert "Queued" in stack.spell("ps").stdout or "Requested" in stack.spell("ps").stdout
    stack.spell("stop", str(waiting))

    run = stack.run(waiting)
    assert (run["state"], run["reason"]) == ("killed", "stopped_before_running")
    stack.spell("kill", *map(str, blockers))
    for run_id in blockers:
        stack.until_final(run_id)


def test_control_c_detaches_and_the_run_goes_on(stack):
    process = stack.start("run", "-f", "echo started; sleep 1.5; echo finished")
    for line in process.stdout:
        if b"started" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    run_id = stack.json("ps", "-n", "1")[0]["id"]

    assert process.returncode == 130
    text = rest.decode()
    for part in (
        "Your run is still running remotely.",
        f"Use 'spell stop {run_id}'",
        f"Use 'spell kill {run_id}'",
        f"Use 'spell logs {run_id}'",
    ):
        assert part in text
    assert stack.spell("wait", str(run_id)).rc == 0
    assert "finished" in stack.spell("logs", str(run_id)).stdout


def test_a_bad_package_fails_the_run_naming_it(stack):
    result = stack.spell("run", "-f", "--pip", "no-such-package-of-anybody-xyz", "true")
    run_id = int(re.search(r"#(\d+)", result.stdout)[1])

    assert result.rc == 70
    run = stack.run(run_id)
    assert (run["state"], run["reason"]) == ("failed", "build_failed")
    assert "no-such-package-of-anybody-xyz" in run["message"]
    assert "Build Failed" in stack.spell("ps").stdout


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("run", ""), (1, 2), "command"),
        (("run", "--env", "1A=x", "true"), (2,), "1A"),
        (("run", "--env", "SPELL_RUN=x", "true"), (1, 2), "SPELL_RUN"),
        (("run", "-t", "T5000", "true"), (1, 2), "CPU"),
        (("run", "--pip", "-r x", "true"), (1, 2), "--pip"),
        (("run", "--timeout", "0", "true"), (1, 2), "--timeout"),
        (("run", "--machinetype", "CPU", "true"), (2,), "--machine-type"),
        (("run", "--timeout", "1", "--timeout", "2", "true"), (2,), "timeout"),
        (("logs", "abc"), (1, 2), "abc"),
        (("info", "999999"), (1,), "999999"),
        (("stop", "0"), (1, 2), ""),
        (("ls", "runs/1/../../etc"), (1, 2), "path"),
        (("cp", "/etc/passwd", "x"), (3,), "relative"),
    ],
)
def test_bad_input_is_refused_in_a_sentence_and_nothing_is_created(stack, words, code, part):
    before = len(stack.json("ps", "-n", "500"))
    result = stack.spell(*words)

    assert result.rc in code, result
    assert part in result.stderr, result
    assert "Traceback" not in result.stdout + result.stderr
    assert len(stack.json("ps", "-n", "500")) == before


def test_labels_lists_and_events(stack):
    run_id = stack.cast("--label", "mine", "--description", "a test", "--env", "A=1=2", "true")
    stack.until_final(run_id)
    assert (
        stack.spell("label", str(run_id), "more").stdout.strip()
        == f"Successfully added label more to run {run_id}."
    )
    assert [run["id"] for run in stack.json("ps", "-l", "more")] == [run_id]
    assert stack.spell("label", str(run_id), "more", "--remove").rc == 0
    assert stack.json("ps", "-l", "more") == []
    info = stack.spell("info", str(run_id)).stdout
    assert "a test" in info or "mine" in info
    assert "1=2" not in info, "values of variables are not shown"
    events = [json.loads(line) for line in stack.spell("events", "--json").stdout.splitlines()]
    states = [event["after"] for event in events if event["run_id"] == run_id]
    assert states == ["requested", "building", "running", "saving", "pushing", "complete"]


def test_an_outside_program_follows_a_run_with_nothing_but_nats_py(stack):
    run_id = stack.cast("sleep 0.3")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/subscriber.py"), stack.subscriber_url, str(run_id)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.stdout.splitlines() == [
        f"run {run_id}: new -> requested",
        f"run {run_id}: requested -> building",
        f"run {run_id}: building -> running",
        f"run {run_id}: running -> saving",
        f"run {run_id}: saving -> pushing",
        f"run {run_id}: pushing -> complete",
    ], done.stderr


def test_a_follower_that_comes_late_gets_everything(stack):
    run_id = stack.cast("for i in 1 2 3 4 5 6; do echo part $i; sleep 0.2; done")
    until(lambda: "part 3" in stack.spell("logs", str(run_id)).stdout, 20, stack.logs)
    late = stack.spell("logs", "-f", str(run_id))

    assert [line for line in late.stdout.splitlines() if line.startswith("part")] == [
        f"part {i}" for i in range(1, 7)
    ]
    assert late.stdout.rstrip().endswith(f"Run {run_id} complete")


def test_an_unknown_machine_type_of_the_setting_waits_with_a_reason():
    """A type that is known but has no machine is accepted; `info` says why the run waits."""
    with prepared(machine_types="CPU,T4") as stack:
        stack.up()
        run_id = stack.cast("-t", "t4", "true")
        run = stack.run(run_id)
        assert (run["state"], run["queue_reason"], run["spec"]["machine_type"]) == (
            "requested",
            "no_machine",
            "T4",
        )
        stack.spell("kill", str(run_id))


def test_help_answers_quickly():
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run(
            [str(Path(sys.executable).with_name("spell")), "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - started)
    assert min(times) < 0.15
