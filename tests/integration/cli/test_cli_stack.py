"""Starting, finding and losing the local stack, with a stand-in for the stack's own command."""

import json
import os
import subprocess
import sys
import threading

import pytest

from integration.cli.cli_server import TOKEN, stdout

pytestmark = pytest.mark.integration

STAND_IN = """
import json, os, sys, time
verb, spell_dir = sys.argv[1], sys.argv[sys.argv.index("--dir") + 1]
with open(os.environ["STAND_IN"]) as file:
    wish = json.load(file)
with open(os.environ["STAND_IN"] + ".calls", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if verb == "up":
    print("gateway is ready (1 of 7)", file=sys.stderr, flush=True)
    time.sleep(wish.get("seconds", 0))
    if wish["client"] is not None:
        os.makedirs(spell_dir + "/local", exist_ok=True)
        with open(spell_dir + "/local/client.json", "w") as file:
            json.dump(wish["client"], file)
if verb == "status":
    print(json.dumps(wish.get("status")))
print(verb + " was asked for", file=sys.stderr)
sys.exit(wish.get("code", 0))
"""


class Stack:
    """What the stand-in is to do, and what it was asked for."""

    def __init__(self, local, url):
        self.local = local
        packages = local.home / "packages" / "spell_standalone"
        packages.mkdir(parents=True)
        (packages / "__init__.py").write_text("")
        (packages / "__main__.py").write_text(STAND_IN)
        self.file = local.home / "wish.json"
        local.env |= {"PYTHONPATH": str(packages.parent), "STAND_IN": str(self.file)}
        self.client = {
            "url": url,
            "token": TOKEN,
            "pid": os.getpid(),
            "known_hosts": "/x",
            "identity_file": "/y",
        }
        self.wish(client=self.client)

    def wish(self, **wish):
        self.file.write_text(json.dumps({"client": self.client} | wish))

    def is_there(self, **given):
        folder = self.local.spell_dir / "local"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "client.json").write_text(json.dumps(self.client | given))

    @property
    def calls(self):
        calls = self.file.with_name("wish.json.calls")
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def stack(local, server):
    return Stack(local, server.url)


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_a_stack_that_runs_is_used_without_a_question(local, stack, server):
    stack.is_there()
    done = local("run", "-f", "true")

    assert done.returncode == 0
    assert stack.calls == []
    assert [path for _, path, _, _ in server.asked] == ["/api/runs", "/api/runs/1/follow"]


def test_the_first_run_starts_the_stack(local, stack):
    done = local("run", "-f", "true")

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().endswith("Run 1 complete\n")
    assert stack.calls == [f"up --dir {local.spell_dir}"]


def test_a_stack_that_no_longer_answers_is_started_again(local, stack):
    stack.is_there(url="http://127.0.0.1:9")
    done = local("ps")

    assert done.returncode == 0, done.stderr.decode()
    assert stack.calls == [f"up --dir {local.spell_dir}"]


def test_a_start_that_takes_a_while_says_so(local, stack):
    stack.wish(seconds=1.3)
    plain = local("ps")

    assert plain.stderr.decode() == "Starting the local stack…\n"

    (local.spell_dir / "local" / "client.json").unlink()
    terminal = local.terminal("ps")
    terminal.until("Starting the local stack… gateway is ready (1 of 7)")
    assert terminal.end() == 0
    assert "Starting" not in "".join(terminal.lines)


def test_a_stack_that_cannot_start_says_why(local, stack):
    stack.wish(client=None, code=69)
    done = local("run", "-f", "true")

    assert done.returncode == 69
    assert "The local stack could not be started." in done.stderr.decode()
    assert "up was asked for" in done.stderr.decode()


def test_a_follower_of_a_stack_that_was_stopped_ends_and_says_how_to_come_back(local, stack, server):
    hold = threading.Event()
    server.script = [*server.script[:4], stdout(b"working\n"), hold, "cut"]
    stack.is_there(pid=dead_process())
    process = local.start("run", "-f", "true")
    while b"working" not in process.stdout.readline():
        pass
    server.httpd.shutdown()
    server.httpd.server_close()
    hold.set()
    _, complaint = process.communicate(timeout=20)

    assert process.returncode == 69
    assert "spell logs -f 1" in complaint.decode()
    assert stack.calls == []


def test_up_and_down_hand_over(local, stack):
    done = local("up")
    assert done.returncode == 0
    assert done.stdout.decode() == f"The local stack is running at {stack.client['url']}.\n"
    assert done.stderr.decode() == "gateway is ready (1 of 7)\nup was asked for\n"

    assert local("down").returncode == 0
    assert stack.calls[-1] == f"down --dir {local.spell_dir}"

    stack.wish(code=69)
    assert local("down").returncode == 69


def test_purge_asks_first(local, stack):
    assert local("down", "--purge").returncode == 1
    assert stack.calls == []

    terminal = local.terminal("down", "--purge")
    terminal.until("Continue? [y/N]: ")
    terminal.type("\n")
    assert terminal.end() == 1
    assert stack.calls == []

    assert local("down", "--purge", "-y").returncode == 0
    assert stack.calls == [f"down --purge --dir {local.spell_dir}"]


def test_status_does_not_start_the_stack(local, stack):
    stack.wish(status={"state": "stopped", "url": "", "services": []}, code=3)
    done = local("status")

    assert done.returncode == 69
    assert "The local stack is not running." in done.stderr.decode()
    assert stack.calls == [f"status --json --dir {local.spell_dir}"]


def test_status_shows_the_services_of_the_stack(local, stack):
    service = {
        "name": "gateway",
        "state": "running",
        "pid": 7,
        "restarts": 1,
        "uptime_seconds": 3700,
        "pss_bytes": 50 << 20,
    }
    down = {
        "name": "runner",
        "state": "starting",
        "pid": None,
        "restarts": 0,
        "uptime_seconds": 0,
        "pss_bytes": 0,
    }
    stack.is_there()
    stack.wish(status={"state": "ready", "url": stack.client["url"], "services": [service, down]})
    done = local("status")

    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[:4] == [
        f"Local stack: ready at {stack.client['url']}",
        "SERVICE  STATE     PID  RESTARTS  UPTIME  MEMORY  DETAIL",
        "gateway  running   7    1         1h1m    50MB",
        "runner   starting  -    0         0s      -",
    ]


def test_a_module_of_the_users_own_does_not_get_in_the_way(local, stack):
    (local.cwd / "json.py").write_text("raise SystemExit(9)\n")

    assert local("ps").returncode == 0
