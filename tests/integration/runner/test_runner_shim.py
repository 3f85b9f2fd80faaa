"""One command under a shim: every byte, the right exit code, and nothing of its process tree left behind."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.runner import shims
from spell_proto.journal import RecordKind
from spell_runner.shim import launch, processes

MODES = [
    pytest.param(("none", False), id="none"),
    pytest.param(("unshare", True), id="unshare"),
    pytest.param(
        ("bubblewrap", True),
        id="bubblewrap",
        marks=pytest.mark.skipif(not shims.BWRAP, reason="bubblewrap is not installed"),
    ),
]
FOREVER = "while :; do sleep 60 & wait; done"


@pytest.fixture(params=MODES)
def start(request, yard):
    isolation, overlay = request.param

    def begin(command, **given):
        return yard.start(command, isolation, overlay=overlay, **given)

    return begin


# ---- exit codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"), [("true", 0), ("exit 66", 66), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_the_exit_code_is_what_a_shell_would_show(start, command, code):
    ending = start(command).until_over().ending

    assert (ending.exit_code, ending.exit_cause, ending.error) == (code, "exit", None)


def test_a_command_that_is_not_found_ends_with_127(start):
    started = start("no-such-program-at-all")

    assert started.until_over().ending.exit_code == 127
    assert b"not found" in started.output(RecordKind.STDERR)


def test_a_shell_that_is_not_there_is_a_failed_start(yard):
    ending = yard.start("true", argv=("/no/such/shell",)).until_over().ending

    assert ending.error == "/no/such/shell: No such file or directory"


def test_an_environment_that_is_too_large_is_a_failed_start(yard):
    env = {f"V{number}": "x" * 32_000 for number in range(300)}

    for isolation, overlay in (("none", False), ("unshare", True)):
        claim = yard.start("true", isolation, overlay=overlay, env=env).until_over()

        assert claim.ending.error == "/bin/bash: Argument list too long"
        assert claim.started_us is None


# ---- output --------------------------------------------------------------------------------------------------


def test_both_streams_are_kept_whole_and_counted(start):
    started = start("for i in 1 2 3; do echo out$i; echo err$i >&2; done; printf no-newline")
    ending = started.until_over().ending

    assert started.output(RecordKind.STDOUT) == b"out1\nout2\nout3\nno-newline"
    assert started.output(RecordKind.STDERR) == b"err1\nerr2\nerr3\n"
    assert (ending.stdout_bytes, ending.stderr_bytes, ending.dropped_bytes) == (25, 15, 0)
    assert ending.sha256 == hashlib.sha256(started.output()).hexdigest()
    assert ending.journal_bytes == (started.path / launch.JOURNAL).stat().st_size


def test_fifty_megabytes_arrive_in_order_and_quickly(start):
    command = "seq 1 8000000 | head -c 52428800"
    expected = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    began = time.monotonic()
    ending = (started := start(command)).until_over().ending
    took = time.monotonic() - began

    assert ending.stdout_bytes == 50 << 20
    assert started.output() == expected
    assert ending.sha256 == hashlib.sha256(expected).hexdigest()
    assert took < 10, f"{took:.1f} s for 50 MB"


def test_output_above_the_cap_is_counted_and_the_gap_is_recorded(yard):
    started = yard.start(
        "head -c 100000 /dev/zero; head -c 50000 /dev/zero >&2; exit 4", log_bytes_max=70_000
    )
    ending = started.until_over().ending
    kinds = [record.kind for record in started.records()]

    assert len(started.output()) == 70_000
    assert (ending.stdout_bytes, ending.stderr_bytes, ending.dropped_bytes) == (100_000, 50_000, 80_000)
    assert ending.exit_code == 4
    assert kinds[-1] is RecordKind.GAP
    gap = started.records()[-1].json()
    assert gap["stdout_bytes"] + gap["stderr_bytes"] == 80_000


def test_a_hundred_runs_of_a_few_milliseconds_lose_nothing(yard):
    started = [yard.start(f"echo {number}; exit {number}") for number in range(100)]

    for number, one in enumerate(started):
        ending = one.until_over().ending
        assert (one.output(), ending.exit_code) == (b"%d\n" % number, number)


def test_the_command_reads_nothing_and_owns_its_session(start):
    started = start(
        "cat; read -r _ _ _ _ _ session _ < /proc/$$/stat; echo $session $$; "
        "ulimit -c; grep NoNewPrivs /proc/self/status"
    )
    started.until_over()
    session, pid, core, *privileges = started.output(RecordKind.STDOUT).split()

    # Under bubblewrap the session leader is out of the namespace's sight, so it reads as 0.
    assert session in {pid, b"0"}
    assert core == b"0"
    assert privileges == [b"NoNewPrivs:", b"1"]


def test_the_environment_is_the_one_that_was_given(yard):
    started = yard.start("env")
    started.until_over()

    names = {line.partition(b"=")[0] for line in started.output().splitlines()}
    assert names == {b"PATH", b"MARK", b"PWD", b"SHLVL", b"_"}


# ---- the end of the process tree -------------------------------------------------------------------------------


def nothing_left(started):
    mark = str(started.path).encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in process.joinpath("environ").read_bytes():
                    return False
    return True


def test_what_a_command_leaves_behind_goes_with_it(start):
    began = time.monotonic()
    started = start("sleep 300 & (setsid sleep 301 &) ; (nohup sleep 302 >/dev/null 2>&1 &) ; echo done")
    ending = started.until_over().ending

    assert (ending.exit_code, started.output(RecordKind.STDOUT)) == (0, b"done\n")
    assert time.monotonic() - began < 10
    assert nothing_left(started)


def test_what_was_written_before_the_end_by_a_child_is_kept(start):
    started = start("(echo from a child; sleep 300) & sleep 0.3; exit 2")

    assert started.until_over().ending.exit_code == 2
    assert started.output() == b"from a child\n"


def test_a_pipe_that_is_held_elsewhere_does_not_hold_the_end_up(yard, tmp_path):
    """A process that is no descendant may have been handed the pipe: a server it talked to, a debugger."""
    address = f"/tmp/sph{os.getpid()}"
    hold = f"""
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind({address!r}); s.listen(1); print("up", flush=True)
c, _ = s.accept(); kept = socket.recv_fds(c, 10, 2); c.close(); time.sleep(60)
"""
    give = f"""
import socket; s = socket.socket(socket.AF_UNIX); s.connect({address!r})
socket.send_fds(s, [b"x"], [1, 2]); s.recv(1)
"""
    script = tmp_path / "give.py"
    script.write_text(give)
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"up\n"
        started = yard.start(f"{sys.executable} {script}; echo given; exit 3")

        assert started.until_over().ending.exit_code == 3
        assert started.output() == b"given\n"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        Path(address).unlink()


def test_stop_reaches_grandchildren_and_daemons_and_lets_them_finish(start):
    inner = "trap 'echo inner ended; exit 0' TERM; echo inner up; " + FOREVER
    started = start(
        f"setsid bash -c \"{inner}\" & trap 'echo outer ended; sleep 0.3; exit 9' TERM; echo outer up; {FOREVER}"
    )
    started.until_output(b"inner up")
    started.until_output(b"outer up")

    started.tell("stop 20")
    ending = started.until_over().ending

    assert (ending.exit_code, ending.exit_cause) == (9, "stop")
    assert sorted(started.output().splitlines()[2:]) == [b"inner ended", b"outer ended"]
    assert nothing_left(started)


def test_a_command_that_ignores_term_is_killed_after_the_grace_period(start):
    started = start(f"trap '' TERM; echo up; {FOREVER}")
    started.until_output(b"up")

    began = time.monotonic()
    started.tell("stop 0.5")
    ending = started.until_over().ending

    assert (ending.exit_code, ending.exit_cause) == (137, "stop")
    assert 0.4 < time.monotonic() - began < 5
    assert nothing_left(started)


def test_kill_ends_everything_at_once(start):
    started = start(f"trap '' TERM; (setsid sleep 300 &); (trap '' TERM; {FOREVER}) & echo up; {FOREVER}")
    started.until_output(b"up")

    began = time.monotonic()
    started.tell("kill")
    ending = started.until_over().ending

    assert (ending.exit_code, ending.exit_cause) == (137, "kill")
    assert time.monotonic() - began < 3
    assert nothing_left(started)


def test_a_kill_cuts_a_grace_period_short(start):
    started = start(f"trap '' TERM; echo up; {FOREVER}")
    started.until_output(b"up")

    started.tell("stop 60")
    started.tell("stop 60")
    started.tell("kill")

    assert started.until_over().ending.exit_cause == "kill"


def test_a_notice_ends_a_command_as_a_stop_does_and_says_why(start):
    started = start(f"trap 'exit 9' TERM; echo up; {FOREVER}")
    started.until_output(b"up")

    started.tell("reclaim 20")
    ending = started.until_over().ending

    assert (ending.exit_code, ending.exit_cause, ending.reason) == (9, "reclaim", "spot_reclaimed")
    assert nothing_left(started)


@pytest.mark.parametrize("first", ["stop 60", "reclaim 60"])
def test_a_notice_leaves_less_time_to_what_is_being_ended_and_no_other_reason(start, first):
    started = start(f"trap '' TERM; echo up; {FOREVER}")
    started.until_output(b"up")

    began = time.monotonic()
    started.tell(first)
    for _ in range(3):
        started.tell("reclaim 0.5")
    ending = started.until_over().ending

    cause, reason = ("stop", None) if first == "stop 60" else ("reclaim", "spot_reclaimed")
    assert (ending.exit_code, ending.exit_cause, ending.reason) == (137, cause, reason)
    assert 0.4 < time.monotonic() - began < 5


def test_a_kill_is_a_kill_under_a_notice_too(start):
    started = start(f"trap '' TERM; echo up; {FOREVER}")
    started.until_output(b"up")

    for order in ("reclaim 60", "kill", "reclaim 0.1", "stop 60"):
        started.tell(order)
    ending = started.until_over().ending

    assert (ending.exit_cause, ending.reason) == ("kill", None)


def test_an_end_that_comes_after_the_exit_changes_nothing(start):
    started = start("exit 5")
    claim = started.until_over()

    started.tell_if_possible("kill")

    assert (claim.ending.exit_code, claim.ending.exit_cause) == (5, "exit")
    assert started.claim == claim


def test_a_stopped_process_sees_the_stop(yard):
    started = yard.start("trap 'exit 3' TERM; echo up; kill -STOP $$; sleep 100")
    started.until_output(b"up")

    started.tell("stop 10")

    assert started.until_over().ending.exit_code == 3


def test_a_kill_during_the_start_leaves_nothing(yard):
    """At whatever moment it arrives: the shim is told over and over from the instant its control exists."""
    for _ in range(15):
        started = yard.start(FOREVER, "unshare", overlay=True)
        deadline = time.monotonic() + 10
        while started.claim is None or started.claim.ending is None:
            started.tell_if_possible("kill")
            assert time.monotonic() < deadline
        assert started.claim.ending.exit_cause == "kill"
        assert nothing_left(started)


# ---- claims, crashes -------------------------------------------------------------------------------------------


def test_a_command_is_started_once_however_often_that_is_asked(yard):
    started = yard.launch("echo once; sleep 0.2")
    for _ in range(5):
        yard.ask(started)
    started.until_over()
    for _ in range(5):
        yard.ask(started)
    other = yard.start("true")
    other.until_over()

    assert started.output() == b"once\n"


def test_a_cancelled_attempt_is_never_started(yard):
    started = yard.launch("echo never")
    assert launch.take(started.path, 0, 0)

    yard.ask(started)
    yard.start("true").until_over()

    assert started.records() == []
    assert started.claim.pid == 0


def test_a_command_dies_with_its_shim_in_a_namespace(yard):
    modes = [("unshare", True)] + ([("bubblewrap", True)] if shims.BWRAP else [])
    for isolation, overlay in modes:
        started = yard.start(f"(setsid sleep 300 &); echo up; {FOREVER}", isolation, overlay=overlay)
        started.until_output(b"up")
        claim = started.claim

        os.kill(claim.pid, signal.SIGKILL)

        deadline = time.monotonic() + 10
        while processes.alive(claim.pid, claim.ticks) or not nothing_left(started):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_a_dead_shim_leaves_behind_without_namespaces_can_be_found(yard):
    started = yard.start(f"(setsid sleep 300 &); echo up; {FOREVER}")
    started.until_output(b"up")
    os.kill(started.claim.pid, signal.SIGKILL)
    assert not nothing_left(started)

    while processes.kill_marked(str(started.path).encode()):
        pass

    assert nothing_left(started)


def test_shims_go_on_without_their_server_and_a_new_one_takes_over():
    with shims.yard() as own:
        started = own.start("echo before; sleep 0.5; echo after; exit 6")
        started.until_output(b"before")

        own.server.kill()
        own.server.wait()
        own.connection.close()
        own.connection = None
        own.server = own.serve()
        second = own.start("exit 1")

        assert second.until_over().ending.exit_code == 1
        assert started.until_over().ending.exit_code == 6
        assert started.output() == b"before\nafter\n"


def test_a_server_that_nobody_uses_ends_and_a_second_one_does_not_start():
    with shims.yard() as own:
        own.dial().close()
        other = own.serve("0.2")
        assert other.wait(10) == 0
        own.server.kill()
        own.server.wait()

        lonely = own.serve("0.2")

        assert lonely.wait(10) == 0


def test_a_doorbell_is_rung_for_the_start_for_output_and_for_the_end(yard):
    drain(yard.bell)
    started = yard.start("echo hello")
    started.until_over()

    deadline, rings = time.monotonic() + 5, []
    while rings.count(b"s") < 2:
        assert time.monotonic() < deadline
        rings += [ring[:1] for ring in drain(yard.bell) if ring[2:].decode() == started.path.name]
    assert b"o" in rings


def drain(bell):
    rings = []
    while True:
        try:
            rings.append(bell.recv(100))
        except BlockingIOError:
            return rings
