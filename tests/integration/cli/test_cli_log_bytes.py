"""Whatever bytes a run writes, and whatever a server sends in their place, `spell logs` shows text and ends in words."""

import os

import pytest

from integration.cli.cli_server import stderr, stdout, whole

pytestmark = pytest.mark.integration

LONG = b"x" * 1_000_000
BYTES = [
    # what is written, what is shown of it
    ([b"a\xff\xfeb\n"], b"a\xff\xfeb\n"),
    ([b"a\x1b]52;c;ZXZpbA==\x07b\n"], b"a\x1b]52;c;ZXZpbA==\x07b\n"),
    ([b"a\0b\n"], b"a\0b\n"),
    ([b" 10%\r 50%\r100%\n"], b" 10%\r 50%\r100%\n"),
    ([LONG] * 10 + [b"\n"], LONG * 10 + b"\n"),
    ([b"no end of line"], b"no end of line"),
    ([b""], b""),
]


@pytest.mark.parametrize(("written", "shown"), BYTES, ids=[str(number) for number in range(len(BYTES))])
def test_a_program_that_reads_gets_the_bytes_that_were_written(cli, server, written, shown):
    server.add_run(state="complete", exit_code=0)
    server.script = whole(*(stdout(piece) for piece in written))

    done = cli("logs", "1")

    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert b"Traceback" not in done.stderr


ACTING = [
    # what is written, what a terminal is given of it
    ([b"a\x1b]52;c;ZXZpbA==\x07b\n"], b"ab\r\n"),
    ([b"a\x1bcb\n", b"\x1bP1$r\x1b\\c\n"], b"ab\r\nc\r\n"),
    ([b"a\x1b]0;ti", b"tle\x07b\n"], b"ab\r\n"),
]


@pytest.mark.parametrize(("written", "shown"), ACTING, ids=[str(number) for number in range(len(ACTING))])
def test_a_terminal_is_given_nothing_that_acts_on_it(cli, server, written, shown):
    server.add_run(state="complete", exit_code=0)
    server.script = whole(*(stdout(piece) for piece in written))
    terminal = cli.terminal("logs", "1")

    assert terminal.end() == 0
    assert shown in terminal.raw
    assert b"\x1b]52" not in terminal.raw


def test_both_streams_of_a_run_may_hold_anything(cli, server):
    server.add_run(state="complete", exit_code=0)
    noise = [os.urandom(5_000) for _ in range(40)]
    server.script = whole(*(made(piece) for piece in noise for made in (stdout, stderr)))

    done = cli("logs", "1")

    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "sent",
    [b"<html>no journal</html>" * 10, b"\xff" * 100, b"\0" * 100, b"\0\0\0\1\xfe" + b"\0" * 40],
    ids=["html", "ones", "zeros", "kind"],
)
def test_a_server_that_sends_no_journal_is_told_as_that(cli, server, sent):
    server.add_run(state="running")
    server.script = [sent]

    done = cli("logs", "1")

    assert done.returncode == 1
    said = " ".join(done.stderr.decode().split())
    assert "bug in spell" not in said, said
    assert "Traceback" not in said
    assert "the server 127.0.0.1" in said
