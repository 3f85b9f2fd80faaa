"""From words to a request: the rows of the bad-input catalogue that have a flag, and what a shell line means."""

from pathlib import Path

import pytest

from spell_cli import spec_from_args
from spell_cli.repository import Repository, Snapshot
from spell_cli.spec_from_args import (
    CondaText,
    OptionNames,
    Requirements,
    RunArguments,
    check,
    misplaced,
    typed,
    with_code,
)
from spell_proto.errors import InvalidError

NAMES = OptionNames(
    with_value={"-t": "TYPE", "--machine-type": "TYPE", "--pip": "PACKAGE", "-e": "NAME=VALUE"},
    flags=frozenset({"-f", "--force", "-b"}),
)


def arguments(*words, **options):
    return RunArguments(words or ("true",), **options)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("cat file | wc",), "cat file | wc"),
        (("cat", "file"), "cat file"),
        (("python", "-c", "print(1)"), "python -c 'print(1)'"),
        (("python", "x.py", "--pip", "six"), "python x.py --pip six"),
        (("echo", ""), "echo ''"),
        (("echo 'unbalanced",), "echo 'unbalanced"),
    ],
)
def test_one_word_is_a_shell_line_and_several_are_a_program_with_arguments(words, command):
    assert check(arguments(*words)).body["command"] == command


def test_what_was_not_asked_for_is_not_sent():
    assert check(arguments("true")).body == {"command": "true"}


def test_every_option_reaches_the_request():
    given = arguments(
        "true",
        pip=("numpy>=1.26", "six"),
        env=("A=1=2", "B="),
        machine_type="cpu",
        description=" text ",
        labels=("x", "y", "x"),
        timeout="2h",
        no_save=("*.tmp", "!best.tmp"),
    )

    assert check(given).body == {
        "command": "true",
        "machine_type": "cpu",
        "environment": {"pip": ["numpy>=1.26", "six"]},
        "env": {"A": "1=2", "B": ""},
        "description": "text",
        "labels": ("x", "y"),
        "timeout_seconds": 7200,
        "no_save": ("*.tmp", "!best.tmp"),
    }


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("90", 5400), ("90s", 90), ("2h", 7200), ("3d", 259200), ("1m", 60)]
)
def test_a_time_limit_is_minutes_or_has_a_unit(timeout, seconds):
    assert check(arguments(timeout=timeout)).body["timeout_seconds"] == seconds


LONG_NAME = "A" * 1001
CATALOGUE = [
    # (row, what is given, code, field, what the message must hold)
    ("B01", {"words": ("",)}, "command_empty", "command", "command"),
    ("B01", {"words": ("   ",)}, "command_empty", "command", "spell run"),
    ("B02", {"words": ("x" * (2 << 20),)}, "command_too_long", "command", "64 KiB"),
    ("B03", {"words": ("a\0b",)}, "command_not_text", "command", "position 1"),
    ("B03", {"words": ("a\udcff",)}, "command_not_text", "command", "UTF-8"),
    ("B09", {"pip": ("--index-url=http://x",)}, "pip_spec_invalid", "pip", "--pip"),
    ("--no-save", {"no_save": ("",)}, "pattern_invalid", "no_save", "--no-save"),
    ("--no-save", {"no_save": ("a\nb",)}, "pattern_invalid", "no_save", "one line"),
    ("--no-save", {"no_save": ("a",) * 101}, "too_many_patterns", "no_save", "100"),
    ("B09", {"pip": ("-r x",)}, "pip_spec_invalid", "pip", "--pip"),
    ("B09", {"pip": ("",)}, "pip_spec_invalid", "pip", "--pip"),
    ("B13", {"pip": ("six",) * 501}, "too_many_packages", "pip", "500"),
    ("B13", {"pip": (LONG_NAME,)}, "pip_spec_too_long", "pip", "--pip"),
    ("B29", {"env": ("NOEQ",)}, "env_name_invalid", "env", "'NOEQ'"),
    ("B29", {"env": ("=x",)}, "env_name_invalid", "env", "--env"),
    ("B29", {"env": ("1A=x",)}, "env_name_invalid", "env", "'1A'"),
    ("B29", {"env": ("A B=x",)}, "env_name_invalid", "env", "'A B'"),
    ("B30", {"env": ("LD_PRELOAD=x",)}, "env_reserved", "env", "LD_PRELOAD"),
    ("B30", {"env": ("NVIDIA_VISIBLE_DEVICES=0",)}, "env_reserved", "env", "--env"),
    ("B30", {"env": ("DOCKER_HOST=x",)}, "env_reserved", "env", "--env"),
    ("B30", {"env": ("SPELL_RUN=1",)}, "env_reserved", "env", "--env"),
    ("B31", {"env": ("A=" + "x" * (1 << 20),)}, "env_too_large", "env", "32 KiB"),
    ("B31", {"env": ("A=\0",)}, "env_not_text", "env", "NUL"),
    ("B31", {"env": ("A=\udcff",)}, "env_not_text", "env", "UTF-8"),
    *(
        ("B45", {"docker_image": value}, "image_ref_invalid", "docker_image", "--docker-image")
        for value in ("A/B:Tag", "x:", "x@sha256:zz", "x" * 300, "")
    ),
    *(
        (
            "B45",
            {"docker_image": "python", **packages},
            "flags_conflict",
            "docker_image",
            "when --from is provided",
        )
        for packages in ({"pip": ("six",)}, {"python": "3.12"}, {"latest": True})
    ),
    *(
        ("", {"framework": value}, "framework_invalid", "framework", "`spell frameworks` lists them")
        for value in ("", "py torch", "pytorch>=2", "pytorch==", "-x", "x" * 200, "pytorch\n", "pytörch")
    ),
    *(
        (
            "",
            {"framework": "pytorch", **other},
            "flags_conflict",
            field,
            "Only one of the following options can be specified: --framework, --from, --conda-file",
        )
        for field, other in (
            ("docker_image", {"docker_image": "python"}),
            ("framework", {"conda_file": CondaText("dependencies: [a]", ())}),
        )
    ),
    *(
        ("B50", {"timeout": value}, "number_out_of_range", "timeout", "--timeout")
        for value in ("-1", "0", "1e9", "NaN", "１２", "0x10", "", "2 h", "1.5", "400d", "9" * 11)
    ),
    *(
        ("B50", {"save_every": value}, "number_out_of_range", "save_every_seconds", "from 10s to 30d")
        for value in ("9s", "0", "31d", "721h")
    ),
    *(
        ("B50", {"save_every": value}, "number_out_of_range", field, "'" + value)
        for value, field in (("-1", "save_every_seconds"), ("often", "save_every_seconds"))
    ),
    ("B51", {"description": "x" * 10_000}, "description_too_long", "description", "--description"),
    ("B51", {"labels": tuple(f"l{number}" for number in range(1000))}, "too_many_labels", "label", "--label"),
    ("B51", {"labels": ("x" * 65,)}, "label_too_long", "label", "--label"),
    ("B51", {"labels": ("a,b",)}, "label_invalid", "label", "--label"),
    ("B51", {"labels": ("a\u202eb",)}, "label_invalid", "label", "--label"),
    ("B51", {"labels": ("",)}, "label_invalid", "label", "--label"),
]


@pytest.mark.parametrize(
    ("typed_in", "seconds"),
    [("10s", 10), ("10", 600), ("10m", 600), ("2h", 7_200), ("30d", 2_592_000), ("720h", 2_592_000)],
)
def test_how_often_a_run_saves_itself_reaches_the_request_in_seconds(typed_in, seconds):
    assert check(arguments(save_every=typed_in)).body["save_every_seconds"] == seconds


@pytest.mark.parametrize(
    ("given", "code", "field", "holds"),
    [row[1:] for row in CATALOGUE],
    ids=[f"{row[0]}-{number}" for number, row in enumerate(CATALOGUE)],
)
def test_a_field_that_is_wrong_is_refused_by_name(given, code, field, holds):
    with pytest.raises(InvalidError) as caught:
        check(RunArguments(**({"words": ("true",)} | given)))

    assert (caught.value.code, caught.value.field) == (code, field)
    assert holds in caught.value.message
    assert len(caught.value.message) < 400


def test_a_framework_goes_with_packages_in_its_one_form():
    given = arguments(framework="PyTorch==2.9", pip=("timm",), python="3.12")

    assert check(given).body["environment"] == {
        "pip": ["timm"],
        "python": "3.12",
        "framework": "pytorch==2.9",
    }


def test_a_newline_in_a_value_is_fine():
    assert check(arguments(env=("A=x\ny",))).body["env"] == {"A": "x\ny"}


def test_of_a_variable_given_twice_the_last_value_counts_and_a_warning_says_so():
    checked = check(arguments(env=("A=1", "B=2", "A=3", "A=4")))

    assert checked.body["env"] == {"A": "4", "B": "2"}
    assert checked.warnings == ("--env: A is given twice; the last value counts",)


def test_control_characters_and_bidi_overrides_are_taken_out_of_a_description():
    assert check(arguments(description="a\x1b[31m\u202eb")).body["description"] == "a[31mb"


def repository(**given):
    values = {
        "directory": "/somewhere/proj/sub/dir",
        "toplevel": "/somewhere/proj",
        "index_file": Path("/somewhere/proj/.git/index"),
        "objects": Path("/somewhere/proj/.git/objects"),
        "commit": "a" * 40,
        "tree": "b" * 40,
        "committed_at": 1,
        "message": "Add a model",
        "cwd": "sub/dir",
        "changed": (),
        "unmerged": (),
        "untracked": (),
    }
    return Repository(**(values | given))


def test_the_commit_and_its_message_go_with_the_run():
    assert with_code({"command": "true"}, repository(), None) == {
        "command": "true",
        "description": "Add a model",
        "code": {"commit": "a" * 40, "root_directory": "proj", "cwd": "sub/dir"},
    }


def test_code_that_the_server_fetches_is_named_and_nothing_else_is_sent():
    given = arguments(github_url="https://GitHub.com/o/r/", github_ref="v1.2")

    assert check(given).body["github"] == {"url": "https://github.com/o/r", "ref": "v1.2"}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"github_ref": "v1"}, "flag_needs"),
        ({"github_url": "https://github.com/o/r", "commit_ref": "v1"}, "flags_conflict"),
    ],
)
def test_options_that_do_not_go_together(given, code):
    with pytest.raises(InvalidError) as caught:
        check(arguments(**given))

    assert caught.value.code == code


def test_a_snapshot_goes_beside_the_commit_it_stands_on():
    code = with_code({}, repository(), Snapshot("c" * 40, Path("/x")))["code"]

    assert (code["commit"], code["snapshot"]) == ("a" * 40, "c" * 40)


def test_a_description_that_was_given_stands():
    assert with_code({"description": "mine"}, repository(), None)["description"] == "mine"


def test_a_long_commit_message_is_cut_not_refused():
    assert len(with_code({}, repository(message="x" * 9000), None)["description"]) == 4096


def test_a_directory_that_is_no_text_is_refused():
    with pytest.raises(InvalidError) as caught:
        with_code({}, repository(cwd="sub/\udcff"), None)

    assert caught.value.field == "code.cwd"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("python x.py", "-t", "V100"), (["-t", "V100"], ["python x.py"])),
        (("python x.py", "--pip=six", "arg", "-b"), (["--pip=six", "-b"], ["python x.py", "arg"])),
        (("python x.py", "-t"), (["-t", "TYPE"], ["python x.py"])),
        (("python x.py", "-tV100"), (["-t", "V100"], ["python x.py"])),
        (("python x.py", "-t=V100"), (["-t", "V100"], ["python x.py"])),
        (("python x.py", "-bf", "arg"), (["-b", "-f"], ["python x.py", "arg"])),
        (("python x.py", "-bt", "V100"), (["-b", "-t", "V100"], ["python x.py"])),
        (("python x.py", "-bx"), None),
        (("python x.py", "-"), None),
        (("python x.py", "--", "-b"), None),
        (("python x.py", "-b", "--", "-f"), (["-b"], ["python x.py", "--", "-f"])),
        (("python x.py", "--epochs", "3"), None),
        (("python", "x.py", "--pip", "six"), None),
        (("python x.py",), None),
        (("true ", "-t", "x"), None),
    ],
)
def test_our_options_behind_a_quoted_command_are_found(words, expected):
    assert misplaced(words, NAMES) == expected


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("plain", "plain"),
        ("python x.py", '"python x.py"'),
        ("echo $A", "'echo $A'"),
        ('say "a"', "'say \"a\"'"),
    ],
)
def test_a_word_is_shown_as_it_would_be_typed(word, shown):
    assert typed(word) == shown


def test_the_command_line_of_a_single_word_is_not_quoted():
    assert spec_from_args.command_line(["a b"]) == "a b"


def test_an_environment_is_asked_for_with_what_the_file_held():
    found = Requirements("six # req.txt:1\n", "numpy<2 # c.txt:1\n", ("a link",))

    request = check(arguments(pip=("torch",), pip_req=found, python="3.12", latest=True))

    assert request.body["environment"] == {
        "pip": ["torch"],
        "requirements": "six # req.txt:1\n",
        "constraints": "numpy<2 # c.txt:1\n",
        "python": "3.12",
        "latest": True,
    }
    assert request.warnings == ("a link",)
