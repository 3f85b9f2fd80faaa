"""The stack on one machine: up, down, crashes, and nothing left behind."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spell_standalone.layout import Layout
from support import disks
from support.standalone import alive, command_lines, prepared, standalone, until

SERVICES = ["postgres", "nats", "scheduler", "storage", "builder", "gateway", "runner"]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stack():
    with standalone() as running:
        yield running


def pids(stack):
    return {service["name"]: service["pid"] for service in stack.status()["services"]}


def test_up_brings_all_services_and_says_how_to_reach_them(stack):
    status = json.loads(stack.manage("status", "--json").stdout)

    assert status["state"] == "ready"
    assert [service["name"] for service in status["services"]] == SERVICES
    assert all(service["state"] == "running" and service["pss_bytes"] > 0 for service in status["services"])
    client = stack.client
    assert client["url"] == status["url"]
    assert client["token"].startswith("spell_")
    known_host = (stack.data / "known_hosts").read_text().split()
    assert known_host[0].startswith("[127.0.0.1]:")
    assert known_host[1] == "ssh-ed25519"


def test_secrets_are_readable_by_their_owner_only(stack):
    for path in (
        stack.data / name for name in ("client.json", "settings.json", "nats.conf", "subscriber.url")
    ):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert (stack.directory / "spell.pem").stat().st_mode & 0o777 == 0o600
    assert stack.data.stat().st_mode & 0o777 == 0o700


def test_no_password_stands_in_a_command_line(stack):
    kept = json.loads((stack.data / "settings.json").read_text())
    secrets = [*kept["postgres_passwords"].values(), *kept["nats_passwords"].values(), kept["token"]]

    for words in command_lines().values():
        assert not any(secret in words for secret in secrets), words


def test_up_on_a_running_stack_changes_nothing_and_is_quick(stack):
    before = pids(stack)
    begun = time.monotonic()

    result = stack.manage("up")

    assert result.rc == 0
    assert time.monotonic() - begun < 2
    assert pids(stack) == before


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_killed_is_started_again(stack, name):
    restarts = stack.service(name)["restarts"]

    pid = stack.kill9(name)

    stack.until_running(name, instead_of=pid)
    assert stack.service(name)["restarts"] > restarts
    result = stack.spell("run", "--force", "true")
    assert result.rc == 0, f"{result}\n{stack.logs()}"


def test_a_supervisor_that_is_killed_takes_everything_with_it_and_up_works_again(stack):
    before = pids(stack)
    supervisor = stack.pid("supervisor")

    os.kill(supervisor, signal.SIGKILL)

    until(
        lambda: not any(alive(pid) for pid in before.values()),
        10,
        lambda: f"still there: {[name for name, pid in before.items() if alive(pid)]}",
    )
    assert stack.spell("run", "--force", "true").rc == 0  # starts it again by itself
    assert not set(pids(stack).values()) & set(before.values())


def test_down_stops_everything_and_up_finds_the_runs_again():
    with standalone() as stack:
        assert stack.spell("run", "--force", "echo hello").rc == 0
        before = pids(stack)
        supervisor = stack.pid("supervisor")

        result = stack.manage("down")

        assert result.rc == 0, result
        assert not any(alive(pid) for pid in (*before.values(), supervisor))
        assert not (stack.data / "client.json").exists()
        assert stack.manage("down").rc == 0
        stack.up()
        assert "\nhello\n" in stack.spell("logs", "1").stdout


def test_a_run_goes_on_while_the_stack_is_down_and_is_ended_by_a_purge():
    # Where we are root it has a disk of its own.
    with standalone(run_bytes_max=1 << 30) as stack:
        stack.cast("sleep 612")
        until(lambda: stack.run(1)["state"].lower() == "running", 30, stack.logs)

        down = stack.manage("down")
        mounted = disks.mounts(stack.data.resolve())
        purge = stack.manage("down", "--purge")

        assert "1 run goes on" in down.stderr
        assert [Path(at).name for at in mounted] == (["1-1"] if disks.possible() else [])
        assert (disks.mounts(stack.data.resolve()), disks.images(stack.data.resolve())) == ([], [])
        assert purge.rc == 0, purge
        assert not stack.data.exists()
        assert (stack.directory / "spell.pem").exists()
        assert "sleep 612" not in command_lines().values()


def test_two_ups_at_once_start_one_stack():
    with prepared() as stack:
        line = [sys.executable, "-m", "spell_standalone", "up", "--dir", str(stack.directory)]
        ups = [subprocess.Popen(line, env=stack.environment, cwd=stack.work) for _ in range(3)]

        codes = [up.wait(120) for up in ups]

        assert codes == [0, 0, 0]
        words = f"spell_standalone serve --dir {stack.directory}"
        serving = [pid for pid, line in command_lines().items() if line.endswith(words)]
        assert serving == [stack.pid("supervisor")]


def test_a_supervisor_in_the_foreground_ends_with_0_on_sigterm():
    with prepared() as stack:
        line = [sys.executable, "-m", "spell_standalone", "serve", "--dir", str(stack.directory)]
        with subprocess.Popen(
            line, env=stack.environment, cwd=stack.work, stderr=subprocess.DEVNULL
        ) as server:
            until((stack.data / "client.json").exists, 60, stack.logs)
            running = pids(stack)

            server.send_signal(signal.SIGTERM)

            assert server.wait(60) == 0
        assert not any(alive(pid) for pid in running.values())


def test_a_port_that_somebody_else_has_taken_is_given_up():
    with standalone() as stack:
        port = int(stack.client["url"].rpartition(":")[2])
        stack.manage("down")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()

            stack.up()

            assert int(stack.client["url"].rpartition(":")[2]) != port
        assert stack.spell("ps").rc == 0


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log():
    with prepared(slots="many") as stack:
        result = stack.manage("up")

        assert result.rc == 69
        assert "runner does not start" in result.stderr
        assert "SPELL_SLOTS must be a whole number" in result.stderr
        assert stack.status() is None


def long_named(stack):
    """Give the stack a directory whose path has 200 bytes; where its sockets are then."""
    stack.directory = stack.directory / ("x" * (199 - len(str(stack.directory))))
    stack.environment["SPELL_DIR"] = str(stack.directory)
    assert len(str(stack.directory)) == 200
    return Layout(stack.directory).run


def test_a_stack_whose_path_is_too_long_for_sockets_works_and_a_purge_leaves_nothing():
    with prepared(isolation="none") as stack:
        sockets = long_named(stack)

        ran = stack.spell("run", "--force", "true")
        private = stat.S_IMODE(sockets.stat().st_mode)
        down = stack.spell("down")
        shutil.rmtree(sockets)  # as a reboot does
        again = stack.spell("run", "--force", "true")
        purged = stack.spell("down", "--purge", "--yes")

        assert (ran.rc, down.rc, again.rc, purged.rc) == (0, 0, 0, 0), (ran, down, again, purged)
        assert private == 0o700
        assert not sockets.exists()
        assert not stack.data.exists()


def test_a_stack_is_found_through_a_link_to_its_long_directory(tmp_path):
    with prepared(isolation="none") as stack:
        long_named(stack)
        stack.directory.mkdir(parents=True)
        link = tmp_path / "short"
        link.symlink_to(stack.directory)
        long = stack.environment["SPELL_DIR"]
        try:
            stack.environment["SPELL_DIR"] = str(link)
            up = stack.spell("run", "--force", "true")
            stack.environment["SPELL_DIR"] = long
            found = stack.manage("status")
        finally:
            stack.spell("down", "--purge", "--yes")

        assert (up.rc, found.rc) == (0, 0), (up, found)
        assert "not running" not in found.stdout


def test_a_directory_for_sockets_that_is_not_ours_is_refused_in_words(tmp_path):
    with prepared() as stack:
        sockets = long_named(stack)
        sockets.symlink_to(tmp_path)
        try:
            results = [stack.manage(verb) for verb in ("up", "status", "down")]
        finally:
            sockets.unlink()

        for result in results:
            assert result.rc == 69
            assert "is no directory of this user" in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_two_stacks_with_long_paths_share_no_sockets(tmp_path):
    first, second = (Layout(tmp_path / ("x" * 100) / name) for name in "ab")

    assert first.run != second.run
    assert first.run == Layout(first.user).run
    assert Layout(Path("/s")).run == Path("/s/local/run")


def test_a_missing_postgres_is_said_plainly():
    with prepared(pg_bin="/nowhere") as stack:
        result = stack.manage("up")

        assert result.rc == 69
        assert "Postgres is missing: SPELL_PG_BIN is /nowhere" in result.stderr


def test_a_stack_whose_directory_is_removed_leaves_nothing_running():
    with standalone() as stack:
        running = [*pids(stack).values(), stack.pid("supervisor")]
        # The trees in it are read-only, directories too.
        subprocess.run(["chmod", "-R", "u+rwX", str(stack.data)], check=True)
        while stack.data.exists():
            # What runs in it makes files meanwhile.
            subprocess.run(["rm", "-rf", str(stack.data)], check=False)

        os.kill(running[1], signal.SIGKILL)

        until(lambda: not any(alive(pid) for pid in running), 20, lambda: "something still runs")


def test_a_person_is_told_whether_runs_are_isolated():
    with prepared(isolation="none") as stack:
        told = stack.manage("up")
        runner = next(
            service
            for service in json.loads(stack.manage("status", "--json").stdout)["services"]
            if service["name"] == "runner"
        )

        assert "Runs are not isolated: install bubblewrap." in told.stderr
        assert runner["problem"] == "isolation: none"


def test_a_stack_lives_below_a_path_that_is_not_ascii():
    with prepared() as stack:
        stack.directory = stack.directory / "für"
        stack.environment["SPELL_DIR"] = str(stack.directory)

        stack.up()
