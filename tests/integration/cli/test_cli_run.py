"""`spell run` as a process: words, code, creation, transcript, exit code, interruptions."""

import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from integration.cli import cli_server
from integration.cli.cli_server import note, phase, serving, stderr, stdout, whole

pytestmark = pytest.mark.integration

PLAIN = """\
💫 Casting spell #1…
✨ Stop viewing logs with ^C
✨ Run created -- waiting for a CPU machine.
✨ Run is building
Machine acquired -- commencing run
✨ Run is running
Hello World
✨ Run is saving
No modified or new files found
✨ Run is pushing
🎉 Total run time: 6.870837s
🎉 Run 1 complete
"""


def test_elsewhere_than_on_a_terminal_every_entry_is_a_line(cli):
    done = cli("run", "-f", "true")

    assert done.stdout.decode() == PLAIN
    assert done.returncode == 0


def test_without_utf8_the_same_in_ascii(cli):
    done = cli("run", "-f", "true", PYTHONIOENCODING="ascii")

    assert done.stdout.decode("ascii") == re.sub("[💫✨🎉] ", "", PLAIN).replace("…", "...")


def test_on_a_terminal_the_transcript_is_the_originals(cli):
    cli.repository()
    terminal = cli.terminal("run", "true")

    assert terminal.end() == 0
    assert terminal.lines == [
        "💫 Casting spell #1…",
        "✨ Stop viewing logs with ^C",
        "✨ Machine_Requested… done",
        "✨ Building… done",
        "✨ Run is running",
        "Hello World",
        "✨ Saving… done",
        "✨ Pushing… done",
        "🎉 Total run time: 6.870837s",
        "🎉 Run 1 complete",
        "",
    ]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["--", "cat", "file"], "cat file"),
        (["cat file | wc"], "cat file | wc"),
        (["python", "x.py", "--pip", "six", "-t", "V100"], "python x.py --pip six -t V100"),
    ],
)
def test_everything_from_the_first_word_on_is_the_command(cli, server, words, command):
    cli("run", "-b", "-f", *words)

    assert server.posts("/api/runs")[0][1]["command"] == command


def test_all_options_reach_the_server(cli, server):
    line = "--pip six --pip numpy>=1.26 -e A=1=2 --env B= -t cpu -d text --label x --timeout 90s -b -f true"
    done = cli("run", *shlex.split(line))

    headers, body = server.posts("/api/runs")[0]
    assert body == {
        "command": "true",
        "environment": {"pip": ["six", "numpy>=1.26"]},
        "env": {"A": "1=2", "B": ""},
        "machine_type": "cpu",
        "description": "text",
        "labels": ["x"],
        "timeout_seconds": 90,
    }
    assert len(headers["Idempotency-Key"]) == 32
    assert done.stdout.decode() == "💫 Casting spell #1…\n✨ View logs with `spell logs 1`\n"


def test_a_variable_given_twice_is_warned_of(cli, server):
    done = cli("run", "-b", "-f", "-e", "A=1", "-e", "A=2", "true")

    assert "WARNING: --env: A is given twice; the last value counts\n" in done.stderr.decode()
    assert server.posts("/api/runs")[0][1]["env"] == {"A": "2"}


@pytest.mark.parametrize(
    ("final", "code", "last"),
    [
        ({"state": "complete", "exit_code": 66}, 66, "🎉 Run 1 complete"),
        ({"state": "failed", "reason": "oom", "message": "too much"}, 70, "💥 Run 1 failed"),
        ({"state": "stopped", "reason": "stopped_by_user", "exit_code": 143}, 0, "✋ Run 1 stopped"),
    ],
)
def test_the_exit_code_is_the_runs(cli, server, final, code, last):
    server.final = {"run_seconds": 1.5} | final
    done = cli("run", "-f", "true")

    assert done.returncode == code
    assert done.stdout.decode().splitlines()[-1] == last


def test_output_and_errors_of_the_run_come_out_where_they_belong_byte_for_byte(cli, server):
    server.script = whole(stdout(b"\x00\xff\x1b[31mout\r"), stderr(b"err\n"), stdout(b"partial"))
    done = cli("run", "-f", "true")

    assert b"\x00\xff\x1b[31mout\rpartial\n\xe2\x9c\xa8 Run is saving\n" in done.stdout
    assert done.stderr.endswith(b"err\n")


def test_on_one_terminal_output_and_errors_stay_in_order(cli, server):
    server.script = whole(stdout(b"one\n"), stderr(b"two\n"), stdout(b"three"))
    terminal = cli.terminal("run", "-f", "true")
    terminal.end()

    at = terminal.lines.index("one")
    assert terminal.lines[at : at + 4] == ["one", "two", "three", "✨ Saving… done"]


def test_verbose_shows_every_line_on_a_terminal_too(cli):
    terminal = cli.terminal("run", "-f", "-v", "true")
    terminal.end()

    assert "Machine acquired -- commencing run" in terminal.lines
    assert "✨ Run is saving" in terminal.lines


def test_a_spinner_turns_while_a_phase_lasts(cli, server):
    hold = threading.Event()
    server.script = [cli_server.REQUESTED, phase("building"), note("Installing six"), hold, *whole()[3:]]
    terminal = cli.terminal("run", "-f", "true")
    terminal.until("🌟 Building… Installing six")
    terminal.until("⭐ Building… Installing six")
    hold.set()

    assert terminal.end() == 0
    assert "✨ Building… done" in terminal.lines


def test_interrupting_leaves_the_run_alone_and_says_how_to_come_back(cli, server):
    hold = threading.Event()
    server.script = [*whole()[:4], stdout(b"working"), hold]
    terminal = cli.terminal("run", "-f", "true")
    terminal.until("working")
    terminal.interrupt()

    assert terminal.end() == 130
    hold.set()
    assert terminal.lines[-6:] == [
        "",
        "✨ Your run is still running remotely.",
        "✨ Use 'spell stop 1' to save outputs and stop your run.",
        "✨ Use 'spell kill 1' to terminate your run. All outputs will be lost.",
        "✨ Use 'spell logs 1' to view logs again",
        "",
    ]
    assert not any(path.endswith(("stop", "kill")) for _, path, _, _ in server.asked)


def test_a_reader_that_leaves_ends_it_quietly(cli, server):
    server.script = whole(*[stdout(b"x" * 100_000 + b"\n")] * 20)
    process = cli.start("run", "-f", "true")
    process.stdout.read(10)
    process.stdout.close()

    assert process.wait(20) == 141
    assert process.stderr.read() == b"WARNING: No git repository found! Running without a workspace.\n"


def test_a_connection_lost_in_the_middle_leaves_no_gap_and_no_double(cli, server):
    lines = [stdout(b"line %d\n" % number) for number in range(50)]
    server.script = whole(*lines[:10], "cut", *lines[10:20], "cut", "cut", *lines[20:])
    done = cli("run", "-f", "true")

    shown = done.stdout.decode()
    assert [int(number) for number in re.findall(r"line (\d+)", shown)] == list(range(50))
    assert shown.count("Run created") == 1
    assert shown.count("Run is running") == 1
    assert done.returncode == 0


def test_a_server_that_is_away_for_a_while_is_waited_for(cli, server):
    hold = threading.Event()
    server.script = [*whole()[:4], stdout(b"before\n"), hold, "cut", *whole(stdout(b"after\n"))[4:]]
    process = cli.start("run", "-f", "true")
    seen = b""
    while b"before" not in seen:
        seen += process.stdout.read1()
    port = server.httpd.server_address[1]
    server.httpd.shutdown()
    server.httpd.server_close()
    hold.set()
    while b"Trying again" not in seen:
        data = process.stdout.read1()
        assert data
        seen += data
    with serving(server, port):
        rest, _ = process.communicate(timeout=20)

    text = (seen + rest).decode()
    assert process.returncode == 0
    assert text.count("before") == text.count("after") == 1
    assert "✨ Connected again.\n" in text


def test_a_lost_answer_to_a_creation_is_asked_for_again_with_the_same_key(cli, server):
    server.refuse("POST", "/api/runs", 0, "", "", times=1)
    server.refuse("POST", "/api/runs", 503, "unavailable", "in a moment", times=1)
    done = cli("run", "-b", "-f", "true")

    assert done.returncode == 0
    keys = {headers["Idempotency-Key"] for headers, _ in server.posts("/api/runs")}
    assert (len(server.posts("/api/runs")), len(keys), len(server.runs)) == (3, 1, 1)


@pytest.mark.parametrize(
    ("status", "field", "code"),
    [(422, "machine_type", 2), (422, None, 1), (403, None, 1), (409, None, 1), (500, None, 1)],
)
def test_a_refusal_is_told_in_the_servers_words(cli, server, status, field, code):
    server.refuse("POST", "/api/runs", status, "code", "a sentence", field=field, hint="do this")
    done = cli("run", "-f", "true")

    assert done.returncode == code
    assert "ERROR: " in done.stderr.decode()
    assert "a sentence" in done.stderr.decode()


def test_an_unknown_machine_type_gets_a_suggestion(cli, server):
    message = "--machine-type: invalid choice: 'v10'. (choose from CPU, V100)"
    server.refuse("POST", "/api/runs", 422, "machine_type_unknown", message, field="machine_type")
    done = cli("run", "-f", "-t", "v10", "true")

    assert done.returncode == 2
    assert done.stderr.decode().endswith("Did you mean V100?\n")


def test_a_token_that_is_not_known_is_a_matter_of_configuration(cli):
    done = cli("run", "-f", "true", SPELL_TOKEN="other")

    assert done.returncode == 3
    assert "SPELL_TOKEN" in done.stderr.decode()


def test_a_server_that_never_answers_ends_with_69(cli):
    started = time.monotonic()
    done = cli("status", SPELL_API_URL="http://127.0.0.1:9")

    assert done.returncode == 69
    assert "Can't reach the server 127.0.0.1:9" in done.stderr.decode()
    assert time.monotonic() - started < 10


def test_a_run_that_has_to_wait_says_why(cli, server):
    server.created = {"queue_reason": "owner_limit"}
    done = cli("run", "-f", "true")

    assert "limit of concurrent runs" in done.stdout.decode()


def test_a_signal_to_the_command_line_does_not_reach_the_run(cli, server):
    hold = threading.Event()
    server.script = [*whole()[:4], stdout(b"working\n"), hold]
    process = cli.start("run", "-f", "true")
    while b"working" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == -signal.SIGTERM
    hold.set()
    assert [path for _, path, _, _ in server.asked] == ["/api/runs", "/api/runs/1/follow"]


def test_help_loads_nothing_of_the_network(cli):
    code = (
        "import sys; sys.argv = ['spell', '--help']; import os; os._exit = sys.exit\n"
        "from spell_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'http.client', 'ssl', 'asyncio', 'yaml', 'asyncssh', 'pydantic', 'subprocess'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, check=False, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()


def test_an_important_note_is_a_line_of_its_own_on_a_terminal(cli, server):
    cli.repository()
    server.script = [*whole()[:4], phase("saving"), note("Not saved: a.bin", important=True), *whole()[-2:]]
    terminal = cli.terminal("run", "true")
    terminal.end()

    assert "💫 Not saved: a.bin" in terminal.lines
    assert "✨ Saving… done" in terminal.lines


def test_output_cannot_act_on_the_terminal_and_is_whole_in_a_pipe(cli, server):
    server.script = whole(stdout(b"a\x1b]52;c;"), stdout(b"eA==\x07b\x1bc\x1b[31mc\x1b[0m\n"))
    cli.repository()
    terminal = cli.terminal("run", "true")
    terminal.end()

    assert b"ab\x1b[31mc\x1b[0m\r\n" in terminal.raw
    assert b"a\x1b]52;c;eA==\x07b\x1bc\x1b[31mc\x1b[0m\n" in cli("run", "true").stdout
