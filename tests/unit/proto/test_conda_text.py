"""Conda files are read by line and column; whatever could do more than list packages is refused, and fast."""

import time

import pytest

from spell_proto.conda import parse_text
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest

DIGEST = "sha256:" + "a" * 64
EXACT = f"https://conda.example/main/linux-64/python-3.12.1-h1_0.conda#{DIGEST}"


def message(text: str) -> str:
    with pytest.raises(InvalidError) as refused:
        parse_text(text, "env.yml")
    return refused.value.message


def test_a_file_is_read_as_people_write_them():
    found = parse_text(
        "name: mine\nprefix: /srv/me/mine\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n"
        "  - python=3.10\n  - NumPy >=1.26,<3\n  - nvidia::cuda-nvcc 12.4.* h1_0\n  - pip\n  - pip:\n    - Torch>2\n"
    )

    assert [channel.text for channel in found.channels] == ["conda-forge"]
    assert [(each.name, each.text) for each in found.packages] == [
        ("python", "python=3.10"),
        ("numpy", "NumPy >=1.26,<3"),
        ("cuda-nvcc", "cuda-nvcc 12.4.* h1_0"),
        ("pip", "pip"),
    ]
    assert found.packages[2].channel == "nvidia"
    assert [entry.requirement for entry in found.pip.entries] == ["Torch>2"]


def test_its_name_and_prefix_are_told_to_mean_nothing():
    notes = parse_text("name: mine\nprefix: /x\ndependencies: [a]").notes("env.yml")

    assert notes == (
        "--conda-file: env.yml: the environment is called 'spell' in the run, not 'mine'",
        "--conda-file: env.yml: 'prefix' is ignored: the environment lies where the server puts it",
    )
    assert parse_text("name: spell\ndependencies: [a]").notes("env.yml") == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1, column 1: it is empty"),
        ("a: &a [1]\nb: *a", "line 2, column 4: an alias (*name) is not allowed"),
        ("name: !!python/object:os.system x", "line 1, column 7: the tag 'tag:yaml.org,2002:python/object"),
        ("dependencies:\n\t- a", "line 2, column 1: there is a tab, where YAML allows spaces only"),
        ("dependencies:\n  - a\n\t- b", "line 3, column 1: there is a tab"),
        ("a: b: c", "line 1, column 5: it is no YAML: mapping values are not allowed"),
        ("[[[[[[[[[[[[", "line 1, column 8: above 7 lists, one in the other"),
        ("dependencies: [a]\n---\nb", "line 3, column 1: a second document is not allowed"),
        ("dependencies: [a]\ndependencies: [b]", "line 2, column 1: 'dependencies' is there twice"),
        ("name: x", "there is no 'dependencies:'"),
        ("dependencies: 3", "line 1, column 15: a list of packages is expected here"),
        ("dependencies: [a]\nvariables:\n  A: b", "line 2, column 1: 'variables' is not supported"),
        ("dependencies: [a]\nplatforms: [b]", "'platforms' is none of channels, dependencies, name, prefix"),
        ("dependencies:\n- a[url=https://x/y]", "line 2, column 3: 'a[url=https://x/y]' is not a package"),
        ("dependencies:\n- ../x.conda", "'../x.conda' is not a package with versions"),
        (
            "dependencies:\n- https://u:p@x/y.conda",
            "line 2, column 3: 'https://…@x/y.conda': a URL is allowed",
        ),
        ("dependencies:\n- conda: [a]", "one 'pip:' with a list of packages is allowed here"),
        ("dependencies:\n- pip: [a, -r x.txt]", "env.yml, line 2: the option -r is not allowed"),
        (
            "dependencies:\n- pip: ['a @ file:///etc/passwd']",
            "line 2: 'a @ file:///etc/passwd': a package name",
        ),
        (f"dependencies: ['{EXACT}', numpy]", "'numpy' is no exact package, and others are"),
        ("dependencies: [a\0]", "it is no text: see character 16"),
        ("#" * (600 << 10), "at most 512 KiB are allowed"),
    ],
)
def test_what_is_not_allowed_is_told_with_its_place(text, problem):
    assert problem in message(text)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 500_000,
        "- a\n" * 120_000,
        "? " * 250_000,
        "a " * 250_000,
        "dependencies:\n" + "- a\n" * 120_000,
        "a: &a [x,x]\n" + "".join(f"a{n}: &a{n} [*a,*a,*a]\n" for n in range(5_000)),
    ],
)
def test_a_bomb_is_refused_in_less_than_a_second(text):
    begun = time.process_time()
    message(text)

    assert time.process_time() - begun < 1


def test_equal_content_has_an_equal_digest_and_other_requests_keep_theirs():
    one = EnvironmentRequest(conda="name: a\nchannels: [c]\ndependencies: [x, y>1]")
    same = EnvironmentRequest(conda="channels:\n- c\ndependencies:\n- y>1  # later\n- x\nprefix: /p")
    other = EnvironmentRequest(conda="channels: [d]\ndependencies: [x, y>1]")

    assert one.digest() == same.digest()
    assert one.digest() != other.digest()
    assert not one.bare


def test_exact_packages_are_known_by_url_and_digest():
    (package,) = parse_text(f"dependencies: ['{EXACT}']").exact

    assert (package.name, package.version, package.build) == ("python", "3.12.1", "h1_0")
    assert package.channel == "https://conda.example/main"
    assert package.url == EXACT.partition("#")[0]
