"""The catalogue of bad input on the command line: refused in words that name the flag, and nothing is started or asked for."""

import click
import pytest

from spell_cli import main

LONG = "x" * 100_000


def run(*options, command="true"):
    return ["run", *options, command]


# Row of the catalogue, words, exit code, what the complaint must hold: the flag, what was found, what is allowed.
CATALOGUE = [
    ("B01", run(command=""), 2, ["command: it is empty", "Give a command"]),
    ("B01", run(command=" \t\n"), 2, ["command: it is empty"]),
    ("B02", run(command="x" * (2 << 20)), 2, ["command: 2097152 bytes", "at most 64 KiB"]),
    ("B03", run(command="a\0b"), 2, ["command: a NUL byte at position 1"]),
    ("B03", run(command="a\udcff"), 2, ["command: not valid UTF-8 at position 1"]),
    ("B09", run("--pip", "--index-url=http://x"), 2, ["--pip: '--index-url=http://x'", "not a package", "numpy>=1.26"]),
    ("B09", run("--pip", "-r x"), 2, ["--pip: '-r x'", "not a package"]),
    ("B09", run("--pip", " -e ."), 2, ["--pip: ' -e .'"]),
    ("B09", run("--pip", ""), 2, ["--pip: ''"]),
    ("B13", run(*["--pip", "six"] * 501), 2, ["--pip: 501 packages", "at most 500"]),
    ("B13", run("--pip", LONG), 2, ["--pip: 'xxx", "above 1,000 characters"]),
    ("B29", run("--env", "NOEQ"), 2, ["--env: 'NOEQ' has no '='", "NAME=VALUE"]),
    ("B29", run("--env", ""), 2, ["--env: '' has no '='"]),
    ("B29", run("--env", "=x"), 2, ["--env: '' is not a variable name", "letters, digits and _"]),
    ("B29", run("--env", "1A=x"), 2, ["--env: '1A'"]),
    ("B29", run("--env", "A B=x"), 2, ["--env: 'A B'"]),
    ("B29", run("--env", "A\x1b=x"), 2, ["--env: 'A\\x1b'"]),
    *(("B30", run("--env", f"{name}=x"), 2, ["--env", name, "set by the platform"])
      for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "NVIDIA_VISIBLE_DEVICES", "DOCKER_HOST", "SPELL_X")),
    ("B31", run("--env", "A=" + "x" * (1 << 20)), 2, ["--env: the value of A", "32 KiB"]),
    ("B31", run("--env", "A=a\0"), 2, ["--env A: a NUL byte at position 1"]),
    ("B31", run("--env", "A=\udcff"), 2, ["--env A: not valid UTF-8"]),
    ("B31", run(*[word for n in range(1001) for word in ("--env", f"A{n}=")]), 2, ["--env: 1001", "at most 1,000"]),
    *(("B50", run("--timeout", value), 2, ["--timeout: '", "minutes (90)", "from 1s to 366d"])
      for value in ("-1", "0", "0s", "1e9", "NaN", "１２", "0x10", "", " ", "1.5", "2 h", "400d", "9" * 400, "1w", "-5m")),
    ("B51", run("-d", LONG), 2, ["--description: 100000 characters", "at most 4,096"]),
    ("B51", run("-d", "a\udcff"), 2, ["--description: not valid UTF-8"]),
    ("B51", run("--label", LONG), 2, ["--label: 'xxx", "64 characters"]),
    ("B51", run("--label", "a,b"), 2, ["--label: 'a,b'", "without comma"]),
    ("B51", run("--label", "\x1b]52"), 2, ["--label: '\\x1b]52'"]),
    ("B51", run("--label", "a\u202eb"), 2, ["--label: 'a\\u202eb'"]),
    ("B51", run("--label", ""), 2, ["--label: ''", "1 to 64 characters"]),
    ("B51", run("--label", "\udcff"), 2, ["--label"]),
    ("B51", run(*[word for n in range(1000) for word in ("--label", f"l{n}")]), 2, ["--label: 1000", "at most 50"]),
    ("B51", ["label", "1", "a/b"], 2, ["--label: 'a/b'"]),
    ("B51", ["ps", "--label", "a,b"], 2, ["--label: 'a,b'"]),
    ("B50", ["ps", "-n", "0"], 2, ["--number: '0'", "from 1 to 10000"]),
    ("B50", ["ps", "-n", "１"], 2, ["--number: '\\uff11'", "a whole number"]),
    ("B50", ["ps", "-n", "1e3"], 2, ["--number", "'1e3'"]),
    ("B50", ["ps", "-n", "9" * 5000], 2, ["--number"]),
    ("B50", ["logs", "-n", "-1", "7"], 2, ["--tail: '-1'", "from 0 to 1000000"]),
    ("B50", ["logs", "-n", "many", "7"], 2, ["--tail", "'many'"]),
    ("B51", ["ps", "-r", "x" * 5000], 2, ["--repository", "1 to 255"]),
    ("B51", ["ps", "-r", ""], 2, ["--repository: ''", "1 to 255"]),
    ("B51", ["ps", "-r", "\udcff"], 2, ["--repository"]),
    *(("B53", [command, value, *(["x"] if command == "label" else [])], 2, ["run id: '", "a whole number from 1"])
      for command in ("stop", "kill", "logs", "wait", "info", "label", "verify")
      for value in ("", "abc", "0", "1;drop", "9e99", "１", "1 ", "0x1", "9" * 400, "\udcff", "\x1b[2J", "../1")),
    *(("B53", [command, "-1"], 2, ["No such option", "-1"]) for command in ("stop", "kill", "wait", "info")),
    ("B53", ["stop", "1", "2", "x"], 2, ["run id: 'x'"]),
    ("B22", ["cp", "/etc/passwd"], 3, ['"/etc/passwd"', "must be a relative path"]),
    ("B22", ["cp", "-f", "-i", "runs/1"], 3, ["Force and ignore cannot both be true."]),
    ("B22", ["cp", "runs", "out"], 1, ["is a list of resources"]),
    *(("B23", [command, path], 2, ["path: '", "no '..'"])
      for command in ("ls", "cp")
      for path in ("runs/1/../../x", "..", "runs//1", "runs/1/a\0b", "runs/./1")),
    *(("B23", [command, "runs/2/" + "x" * 5000], 2, ["path: 'runs/2/xxx", "at most 4096 bytes are allowed"])
      for command in ("ls", "cp")),
    *(("B23", [command, "runs/1/a\\b"], 2, ["path: 'runs/1/a", "holds a backslash", "the directory that it is in"])
      for command in ("ls", "cp")),
    *(("B23", ["ls", f"runs/{snapshot}"], 2, ["they count from 1", "as in runs/12@1"])
      for snapshot in ("12@0", "12@x", "12@")),
    *(("B23", [command, "runs/\udcff"], 2, ["path: ", "not valid UTF-8"]) for command in ("ls", "cp")),
    ("B72", ["keys", "add", "nosuch.pub"], 2, ["nosuch.pub", "does not exist"]),
    ("B72", ["keys", "add", "."], 2, ["is a directory"]),
    ("B72", ["keys", "add", "/dev/null"], 2, ["/dev/null: this is not a public key", "one line as in"]),
    ("B72", ["keys", "add", "/dev/zero"], 2, ["/dev/zero: this is not a public key", "one line as in"]),
    ("B51", ["keys", "add", "-t", LONG, "/dev/null"], 2, ["--title: 'xxx", "1 to 255"]),
    ("B52", ["completion", "tcsh"], 2, ["bash"]),
    ("B52", ["lgos"], 2, ["Did you mean 'logs'?"]),
    ("B52", ["\x1b]52"], 2, ["No such command '\\x1b]52'"]),
    ("B52", run("--pip"), 2, ["Missing argument 'COMMAND"]),
    ("B52", ["run", "--pip"], 2, ["Option '--pip' requires an argument"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words", "code", "holds"), CATALOGUE, ids=[f"{row[0]}-{n}" for n, row in enumerate(CATALOGUE)]
)
def test_a_bad_word_is_refused_by_its_flag_and_nothing_is_started(spell, row, words, code, holds):
    got, said, complaint = spell(*words)

    plain = " ".join(complaint.split())
    assert (got, said) == (code, ""), (row, complaint)
    assert all(part in plain for part in holds), (row, complaint)
    assert len(complaint) < 1200
    assert all(character.isprintable() or character == "\n" for character in complaint), (row, complaint)


def options():
    """Every option of every command: the words before it, and how it is spelled."""
    for name in main.COMMANDS:
        command = main.spell.get_command(None, name)
        commands = [([name], command)]
        if isinstance(command, click.Group):
            commands = [([name, sub], command.commands[sub]) for sub in command.commands]
        for path, one in commands:
            for option in one.params:
                if isinstance(option, click.Option):
                    yield path, option


SCALARS = [(path, option) for path, option in options() if not option.is_flag and not option.multiple]
LONG_NAMES = [(path, name) for path, option in options() for name in option.opts if name.startswith("--")]


@pytest.mark.parametrize(
    ("path", "option"), SCALARS, ids=[f"{' '.join(path)} {option.name}" for path, option in SCALARS]
)
def test_an_option_that_holds_one_value_is_not_given_twice(spell, path, option):
    first, last = option.opts[0], option.opts[-1]
    code, _, complaint = spell(*path, first, "1", last, "2", "3")

    assert code == 2
    assert f"{max(option.opts, key=len)} is given 2 times; once is allowed" in complaint


@pytest.mark.parametrize(
    ("path", "name"), LONG_NAMES, ids=[f"{' '.join(path)} {name}" for path, name in LONG_NAMES]
)
def test_a_typo_in_an_option_gets_what_was_meant(spell, path, name):
    code, _, complaint = spell(*path, name[:-1] + name[-1] * 2, "1")

    assert code == 2
    assert (
        name in complaint.partition("Did you mean")[2] or name in complaint.partition("Possible options")[2]
    )
