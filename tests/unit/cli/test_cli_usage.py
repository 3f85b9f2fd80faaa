"""Command lines that are wrong in themselves: told as such at once, with exit code 2 or 3, and nothing is asked for."""

import pytest

from spell_cli import main
from spell_cli.commands.run import run
from spell_cli.spec_from_args import RunArguments


@pytest.fixture
def spell(tmp_path, monkeypatch, capsys):
    """Run a command line in this process. Whatever it would ask a server for would fail with 69."""
    monkeypatch.setenv("SPELL_DIR", str(tmp_path))
    monkeypatch.setenv("SPELL_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SPELL_TOKEN", "t")

    def call(*words):
        code = main._guarded(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


RUN = [
    (["python x.py", "-t", "V100"], 'spell run -t V100 "python x.py"'),
    (["--pip", "six", "python x.py", "--label=x"], 'spell run --pip six --label=x "python x.py"'),
    (["python x.py", "--epochs", "3", "-b"], 'spell run -b "python x.py" --epochs 3'),
    (["python x.py", "-tV100", "-bf"], 'spell run -t V100 -b -f "python x.py"'),
    (["python x.py", "-t"], 'spell run -t TYPE "python x.py"'),
    (["--machinetype", "A", "true"], "Did you mean '--machine-type'?"),
    (["-x", "true"], "No such option '-x'"),
    (["-t", "A", "--machine-type", "B", "true"], "--machine-type is given 2 times"),
    (["--timeout", "1", "--timeout", "2", "true"], "--timeout is given 2 times"),
    (["-d", "a", "-d", "b", "-d", "c", "true"], "--description is given 3 times"),
    (["-t"], "requires an argument"),
    ([], "Missing argument"),
    ([""], "command: it is empty"),
    (["  "], "command: it is empty"),
    (["x" * (1 << 17)], "64 KiB"),
    (["\udcff"], "not valid UTF-8"),
    (["-e", "NOEQ", "true"], "'NOEQ'"),
    (["-e", "1A=x", "true"], "'1A'"),
    (["-e", "A B=x", "true"], "'A B'"),
    (["--env", "LD_PRELOAD=x", "true"], "LD_PRELOAD"),
    (["--timeout", "0", "true"], "from 1s to 366d"),
    (["--timeout", "-1", "true"], "from 1s to 366d"),
    (["--timeout", "１２", "true"], "--timeout"),
    (["--label", "a/b", "true"], "--label"),
    (["--label", "x" * 65, "true"], "longer than 64"),
    (["--pip", "--index-url=http://x", "true"], "--pip"),
    (["-d", "x" * 5000, "true"], "--description"),
]


@pytest.mark.parametrize(("words", "holds"), RUN, ids=[str(number) for number in range(len(RUN))])
def test_a_slip_in_run_is_a_usage_error(spell, words, holds):
    code, said, complaint = spell("run", *words)

    assert code == 2
    assert said == ""
    assert complaint.startswith("Usage: spell run [OPTIONS] COMMAND [ARGS]...\n")
    assert holds in complaint


@pytest.mark.parametrize("command", ["logs", "info", "stop", "kill", "wait", "label", "verify"])
@pytest.mark.parametrize("run_id", ["abc", "0", "9e99", "1;drop", "１", "99999999999999999"])
def test_what_is_no_run_id_is_a_usage_error(spell, command, run_id):
    code, _, complaint = spell(command, run_id, *(["x"] if command == "label" else []))

    assert code == 2
    assert "run id" in complaint


def test_a_negative_run_id_is_no_option(spell):
    assert spell("stop", "-1")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "holds"),
    [
        (["cp", "-f", "-i", "runs/1"], 3, "Force and ignore cannot both be true."),
        (["cp", "/x"], 3, 'Invalid source specification "/x". Source path must be a relative path.'),
        (["ps", "-n", "0"], 2, "--number"),
        (["logs", "-n", "-1", "7"], 2, "--tail"),
        (["lgos"], 2, "Did you mean 'logs'?"),
        (["completion", "tcsh"], 2, "bash"),
        (["keys", "ad"], 2, "No such command"),
    ],
)
def test_other_slips(spell, words, code, holds):
    got, said, complaint = spell(*words)

    assert (got, said) == (code, "")
    assert holds in " ".join(complaint.split())


def test_a_configuration_that_makes_no_sense_ends_with_3(spell, tmp_path):
    (tmp_path / "config").write_text("server: [\n")
    code, _, complaint = spell("ps")

    assert code == 3
    assert "config:2" in complaint


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(spell, shell):
    code, said, _ = spell("completion", shell)

    assert code == 0
    assert "_SPELL_COMPLETE" in said


def test_help_names_every_command_with_one_line(spell):
    code, said, _ = spell("--help")

    assert code == 0
    assert all(f"\n  {name} " in said for name in main.COMMANDS)


@pytest.mark.parametrize("command", list(main.COMMANDS))
def test_every_command_explains_itself_with_examples(spell, command):
    code, said, _ = spell(command, "--help")

    assert code == 0
    assert "Examples:\n" in said


def test_warnings_and_errors_are_wrapped_and_indented(spell):
    _, _, complaint = spell("cp", "/" + "word " * 30)

    lines = complaint.splitlines()
    assert lines[0].startswith("ERROR: Invalid source")
    assert all(line.startswith("       ") and len(line) <= 78 for line in lines[1:])


def test_every_option_of_run_is_read():
    options = {option.name for option in run.params}

    assert set(RunArguments._fields) <= options


@pytest.mark.parametrize("command", ["ls", "cp"])
def test_a_path_that_is_no_text_is_a_usage_error(spell, command):
    code, _, said = spell(command, "runs/\udcff")

    assert code == 2
    assert "runs/\\xff is not valid UTF-8" in said
