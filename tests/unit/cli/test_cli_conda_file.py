"""What --conda-file reads goes with the request as it stands; what the server would refuse is refused here, by name."""

import os

import pytest

from spell_cli.conda_file import read
from spell_cli.spec_from_args import CondaText, Requirements, RunArguments, check
from spell_proto.errors import InvalidError

FILE = CondaText("dependencies: [numpy]", ("a note",))


def test_the_text_goes_as_it_is_with_notes_of_what_is_not_followed(tmp_path):
    text = "name: other\ndependencies: [numpy]\n"
    (tmp_path / "env.yml").write_bytes(b"\xef\xbb\xbf" + text.encode())

    found = read("env.yml", tmp_path)

    assert found.text == text
    assert found.warnings == (
        "--conda-file: env.yml: the environment is called 'spell' in the run, not 'other'",
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "--conda-file file not found: env.yml"),
        (b"\xff\xfed\0", "--conda-file: env.yml is UTF-16; save it as UTF-8"),
        (b"caf\xe9", "--conda-file: env.yml is no UTF-8 text: see the byte at position 3"),
        (b"#" * (600 << 10), "--conda-file: env.yml is above 512 KiB; at most 512 KiB are allowed"),
        (b"dependencies:\n\t- a", "--conda-file: env.yml, line 2, column 1: there is a tab"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "env.yml").write_bytes(content)
    with pytest.raises(InvalidError) as refused:
        read("env.yml", tmp_path)

    assert refused.value.message.startswith(sentence)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "env.yml")
    with pytest.raises(InvalidError, match=r"--conda-file: env\.yml is no regular file"):
        read("env.yml", tmp_path)


def test_the_request_holds_the_text():
    checked = check(RunArguments(("true",), conda_file=FILE, latest=True))

    assert checked.body["environment"] == {"conda": FILE.text, "latest": True}
    assert checked.warnings == ("a note",)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"pip": ("six",)}, "--pip or --pip-req cannot be specified when using a conda environment."),
        (
            {"pip_req": Requirements("six", None, ())},
            "--pip or --pip-req cannot be specified when using a conda environment.",
        ),
        ({"python": "3.12"}, "--python cannot be specified when using a conda environment."),
        (
            {"docker_image": "python"},
            "Only one of the following options can be specified: --framework, --from, --conda-file",
        ),
    ],
)
def test_a_conda_file_says_it_all_by_itself(more, sentence):
    with pytest.raises(InvalidError) as refused:
        check(RunArguments(("true",), conda_file=FILE, **more))

    assert refused.value.code == "flags_conflict"
    assert refused.value.message.startswith(sentence)
