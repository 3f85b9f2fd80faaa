"""Exact conda packages and pip's on top as one text, channels by the operator's list, and failures in one sentence."""

import pytest

from spell_builder import layers, pins, refusals
from spell_builder.channels import Channels
from spell_builder.errors import IndexUnreachableError
from spell_proto.conda import parse_text
from spell_proto.errors import InvalidError

DIGEST = "sha256:" + "a" * 64
PYTHON = f"https://conda.example/main/linux-64/python-3.12.1-h1_0.conda#{DIGEST}"
SIX = f"six==1.17.0 \\\n    --hash={DIGEST}\n"


def test_the_text_of_an_environment_is_a_conda_file_that_gives_it_again():
    resolved = layers.with_pip(layers.joined([PYTHON]), f"--index-url https://x.example/simple\n{SIX}")
    read = parse_text(f"# Environment\n{resolved}")

    assert [package.text for package in read.exact] == [PYTHON]
    assert [entry.canonical() for entry in read.pip.entries] == [f"six==1.17.0 --hash={DIGEST}"]
    assert layers.pip_part(resolved) == f"--index-url https://x.example/simple\nsix==1.17.0 --hash={DIGEST}\n"
    assert [pin.head for pin in pins.read(resolved)] == ["python==3.12.1", "six==1.17.0"]


def test_a_text_without_conda_is_all_for_pip():
    assert layers.pip_part(SIX) == SIX
    assert layers.conda_part(SIX) == ()
    assert not layers.is_conda(SIX)


def test_channels_are_urls_names_or_names_below_the_base():
    channels = Channels("https://a.example/x/, forge main=file:///srv/main", "https://base.example/")
    file = parse_text(
        "channels: [main, forge, 'https://a.example/x', 'file:///srv/main/']\ndependencies: [a]"
    )

    assert channels.of(file) == [
        "file:///srv/main",
        "https://base.example/forge",
        "https://a.example/x",
    ]
    assert channels.of(parse_text("dependencies: [a]")) == [
        "https://a.example/x",
        "https://base.example/forge",
        "file:///srv/main",
    ]


@pytest.mark.parametrize("channel", ["defaults", "file:///srv", "https://a.example/x/y", "//a.example/x"])
def test_other_channels_are_refused_without_passwords(channel):
    channels = Channels("https://me:secret@a.example/x", "")
    with pytest.raises(InvalidError) as refused:
        channels.of(parse_text(f"channels: ['{channel}']\ndependencies: [a]"))

    assert refused.value.code == "conda_channel_not_allowed"
    assert "secret" not in refused.value.message


def test_an_exact_package_comes_from_a_channel_of_the_list_too():
    with pytest.raises(InvalidError, match=r"the channel 'https://conda\.example/main' is not"):
        Channels("https://a.example/x", "").of(parse_text(f"dependencies: ['{PYTHON}']"))


def test_a_python_is_always_asked_for():
    channels = Channels("c=https://a.example/x", "")

    assert channels.specs(parse_text("dependencies: [a, 'c::b=1']")) == [
        "a",
        "https://a.example/x::b=1",
        "python",
    ]
    assert channels.specs(parse_text("dependencies: ['python=3.12']")) == ["python=3.12"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "Cannot solve the request because of: No candidates were found for nowhere *.\n",
            "conda: there is no package nowhere in the channels (line 2)",
        ),
        (
            "Cannot solve the request because of: No candidates were found for nowhere >=3.\n",
            "conda: there is no version of nowhere that is >=3 in the channels (line 2)",
        ),
        (
            (
                "Cannot solve the request because of: beta * cannot be installed because there are no viable options:\n"
                "└─ beta 1.0 would require\n   └─ alpha <2, for which no candidates were found.\n"
            ),
            (
                "conda: the packages do not go together (line 3): beta cannot be installed because there are no viable "
                "options: beta 1.0 would require alpha <2, for which no candidates were found."
            ),
        ),
    ],
)
def test_what_cannot_be_solved_is_one_sentence_with_package_and_line(text, sentence):
    file = parse_text("dependencies:\n- nowhere\n- beta\n")

    assert str(refusals.failure(text, "unsatisfiable", file)) == sentence


def test_trouble_of_the_network_is_worth_another_try_and_shows_no_password():
    error = refusals.failure(
        "error sending request for url (http://u:p@127.0.0.1:1/x)\nCaused by: connection refused",
        "other",
        None,
    )

    assert isinstance(error, IndexUnreachableError)
    assert "u:p" not in str(error)
