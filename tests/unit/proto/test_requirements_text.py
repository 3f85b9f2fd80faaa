"""A requirements file is read by our rules: packages, hashes and indexes of the list; everything else by name and line."""

import contextlib
import time

import pytest

from spell_proto.errors import InvalidError
from spell_proto.requirements import TEXT_BYTES_MAX, parse_text
from spell_proto.spec import EnvironmentRequest

HASH = "--hash=sha256:" + "a" * 64


def test_packages_are_read_with_extras_versions_and_markers_without_comments():
    parsed = parse_text(
        "# all\n\nflask[async] >= 3,<4   # web\nnumpy \\\n  ==1.26 ; python_version > '3.8'\r\nsix # base.txt:7\n"
    )

    assert [(entry.requirement, entry.origin) for entry in parsed.entries] == [
        ("flask[async]<4,>=3", "requirements:3"),
        ('numpy==1.26; python_version > "3.8"', "requirements:4"),
        ("six", "base.txt:7"),
    ]


def test_hashes_belong_to_the_package_of_their_line():
    (entry,) = parse_text(f"six==1.17.0 \\\n    {HASH} \\\n    --hash sha256:{'b' * 64}\n").entries

    assert entry.hashes == ("sha256:" + "a" * 64, "sha256:" + "b" * 64)


def test_an_index_is_kept_with_its_host():
    parsed = parse_text(
        "-i https://One.example:8443/simple\n--extra-index-url=https://two.example/whl/cpu\nsix"
    )

    assert [(index.option, index.host) for index in parsed.indexes] == [
        ("--index-url", "one.example:8443"),
        ("--extra-index-url", "two.example"),
    ]


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        (
            "-r base.txt",
            "pip_option_not_allowed",
            "the option -r is not allowed: the files it names are with",
        ),
        ("-r -", "pip_option_not_allowed", "the option -r is"),
        ("-cbase.txt", "pip_option_not_allowed", "the option -c is"),
        ("--requirement=x", "pip_option_not_allowed", "the option --requirement is"),
        ("-e ../x", "pip_option_not_allowed", "-e '../x': a directory of the repository is allowed"),
        ("--editable /x", "pip_option_not_allowed", "a directory of the repository is allowed"),
        ("-e x[../y]", "pip_option_not_allowed", "a directory of the repository is allowed"),
        ("-e https://a:hunter2@x/y", "pip_option_not_allowed", "-e 'https://…@x/y': a directory"),
        (f"-e .\nsix==1 {HASH}", "pip_hash_missing", "-e .: a directory has no --hash"),
        (
            "-f https://x.example",
            "pip_option_not_allowed",
            "the option -f is not allowed: packages come from",
        ),
        ("--find-links=/etc", "pip_option_not_allowed", "the option --find-links is"),
        ("--trusted-host x", "pip_option_not_allowed", "the option --trusted-host is"),
        ("--no-index", "pip_option_not_allowed", "the option --no-index is"),
        ("--pre", "pip_option_not_allowed", "the option --pre is"),
        ("six --config-settings=x=y", "pip_option_not_allowed", "the option --config-settings is"),
        ("six --global-option x", "pip_option_not_allowed", "the option --global-option is"),
        ("six==${VERSION}", "pip_option_not_allowed", "${VERSION}: variables are not allowed"),
        ("--index-url https://${TOKEN}@x.example/", "pip_option_not_allowed", "${TOKEN}: variables"),
        ("--index-url http://x.example/", "pip_index_not_allowed", "only https is allowed"),
        ("--index-url file:///etc", "pip_index_not_allowed", "is not the URL of an index"),
        ("--index-url", "pip_index_not_allowed", "is not the URL of an index"),
        ("--index-url https://[::1", "pip_index_not_allowed", "is not the URL of an index"),
        ("--index-url https://x.example/?a=b", "pip_index_not_allowed", "no ? and no #"),
        ("foo @ file:///etc/passwd", "pip_url_not_allowed", "no path and no URL but git+https://"),
        ("foo@https://x.example/foo.whl", "pip_url_not_allowed", "no path and no URL"),
        ("git+ssh://x.example/y", "pip_url_not_allowed", "'git+ssh' is not allowed, only git+https is"),
        ("foo @ git+file:///etc", "pip_url_not_allowed", "'git+file' is not allowed"),
        ("foo @ git+http://x.example/y", "pip_url_not_allowed", "'git+http' is not allowed"),
        ("git+git@x.example:o/r", "pip_url_not_allowed", "only git+https is"),
        ("git+https:///r", "pip_url_not_allowed", "is no package of a repository, as in NAME @ git+"),
        ("git+https://x.example", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/a/../b", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/r@", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/r@-x", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/r@a..b", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/r?x=y", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/r#egg=a b", "pip_url_not_allowed", "is no package of a repository"),
        ("git+https://x.example/r#egg=a>1", "pip_url_not_allowed", "'a>1' is no name of a package"),
        ("git+https://x.example/r#sha256=0", "pip_url_not_allowed", "behind # are allowed egg=NAME"),
        ("git+https://x.example/r#egg=a&egg=b", "pip_url_not_allowed", "once each"),
        ("git+https://x.example/r#subdirectory=../x", "pip_url_not_allowed", "within the repository"),
        ("git+https://x.example/r#subdirectory=/x", "pip_url_not_allowed", "within the repository"),
        ("a @ git+https://x.example/r ; nonsense", "pip_url_not_allowed", "'nonsense' is no marker"),
        (f"a @ git+https://x.example/r {HASH}", "pip_hash_invalid", "a repository has no --hash; name its"),
        (
            f"six==1 {HASH}\na @ git+https://x.example/r@v1",
            "pip_hash_missing",
            "not named by its full commit",
        ),
        ("./x", "pip_url_not_allowed", "no path and no URL"),
        ("../x.whl", "pip_url_not_allowed", "no path and no URL"),
        ("/etc/x", "pip_url_not_allowed", "no path and no URL"),
        ("foo-1.0-py3-none-any.whl", "pip_url_not_allowed", "no path and no URL"),
        ("foo==", "pip_spec_invalid", "'foo==' is not a package with versions"),
        ("foo bar", "pip_spec_invalid", "'foo bar' is not a package with versions"),
        ("- x", "pip_spec_invalid", "'- x' is no package"),
        ("x" * 1001, "pip_spec_too_long", "above 1,000 characters"),
        ("six==1 --hash=md5:00", "pip_hash_invalid", "'md5:00': sha256: and 64 digits"),
        (f"six>=1 {HASH}", "pip_hash_missing", "six: a --hash needs an exact version, as in six==1.0"),
        (f"six==1.* {HASH}", "pip_hash_missing", "six: a --hash needs an exact version"),
        (f"six==1 {HASH}\n\nnumpy==1", "pip_hash_missing", "line 5: numpy has no --hash"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_line(line, code, part):
    with pytest.raises(InvalidError) as refused:
        parse_text(f"\n# first\n{line}\n")

    assert refused.value.code == code
    assert part in refused.value.message
    assert "requirements, line " in refused.value.message


@pytest.mark.parametrize(
    ("line", "requirement"),
    [
        ("a @ git+https://X.example/o/r.git", "a @ git+https://x.example/o/r.git"),
        ("a[y,x]@git+https://x.example:8443/r@v1.0", "a[x,y] @ git+https://x.example:8443/r@v1.0"),
        (
            "git+https://x.example/r@feature/x#egg=A.b[c]&subdirectory=py/sub/ ; python_version > '3.8'",
            'A.b[c] @ git+https://x.example/r@feature/x#subdirectory=py/sub ; python_version > "3.8"',
        ),
        ("git+https://x.example/r", "git+https://x.example/r"),
    ],
)
def test_a_package_may_be_a_repository_in_every_spelling_and_is_read_again_as_it_is_written(
    line, requirement
):
    (entry,) = parse_text(line).entries
    (again,) = parse_text(entry.canonical()).entries

    assert entry.requirement == again.requirement == requirement
    assert entry.git == again.git


def test_a_full_commit_hash_is_as_good_as_a_hash():
    parsed = parse_text(f"six==1 {HASH}\na @ git+https://x.example/r@{'0' * 40}")

    assert [bool(entry.git) for entry in parsed.entries] == [False, True]


@pytest.mark.parametrize(
    "line", ["--index-url https://me:hunter2@x.example/", "foo @ git+https://me:hunter2@x.example/y"]
)
def test_a_password_in_a_url_is_refused_and_not_repeated(line):
    with pytest.raises(InvalidError) as refused:
        parse_text(line)

    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("six\n" * (TEXT_BYTES_MAX // 4 + 1), "file_too_large"),
        ("six\0", "not_text"),
        ("six\ud800", "not_text"),
    ],
)
def test_what_is_too_large_or_no_text_is_refused(text, code):
    with pytest.raises(InvalidError) as refused:
        parse_text(text)

    assert refused.value.code == code


@pytest.mark.parametrize(
    "text",
    [" " * 500_000 + "x", "#" * 500_000, "a " * 250_000, "--hash " * 70_000, "\\\n" * 250_000, "-" * 500_000],
)
def test_hostile_text_is_read_in_no_time(text):
    begun = time.process_time()
    with contextlib.suppress(InvalidError):
        parse_text(text)

    assert time.process_time() - begun < 2.0


def test_a_request_without_new_members_has_the_digest_it_always_had():
    assert (
        EnvironmentRequest(pip=("six",)).digest()
        == "0c87099e73e874296eabe574abdb07e30f3b007d91d62fce27a363908979bf6a"
    )


def test_equal_content_has_an_equal_digest_and_other_content_another():
    one = EnvironmentRequest(requirements="six==1 # a\nnumpy")
    requests = [
        one,
        EnvironmentRequest(requirements="six==1\n# numpy\n"),
        EnvironmentRequest(requirements="six==1\nnumpy", constraints="numpy<2"),
        EnvironmentRequest(requirements="six==1\nnumpy", python="3.12"),
        EnvironmentRequest(requirements="-i https://x.example/\nsix==1\nnumpy"),
        EnvironmentRequest(python="3.12"),
        EnvironmentRequest(),
    ]

    assert EnvironmentRequest(requirements="numpy\n\nsix == 1", latest=True).digest() == one.digest()
    assert len({request.digest() for request in requests}) == len(requests)


@pytest.mark.parametrize(
    "version", ["", "3.x", "python3.11", ">=3.9", "3.11.2.1", "３.11", "3.11\n", " 3.11"]
)
def test_a_python_is_a_version(version):
    with pytest.raises(ValueError, match=r"--python: .* is not a version of Python, as in 3\.12 or 3\.12\.1"):
        EnvironmentRequest(python=version)
