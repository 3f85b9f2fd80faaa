"""Exact packages: what has hashes and what is a repository are told apart, and nothing else gets through."""

import pytest

from spell_builder import pins
from spell_builder.errors import BuildFailedError
from spell_builder.repositories import Brought, wanted
from spell_proto.requirements import parse_text

COMMIT = "0123456789" * 4
HASH = "--hash=sha256:" + "a" * 64
RESOLVED = f"alpha==1.0 \\\n    {HASH}\nb @ git+https://x.example/b@{COMMIT}#subdirectory=py\n"


def test_repositories_and_what_has_hashes_are_told_apart():
    hashed, repositories = pins.apart(RESOLVED)

    assert hashed == f"alpha==1.0 \\\n    {HASH}\n"
    assert repositories == [f"b @ git+https://x.example/b@{COMMIT}#subdirectory=py"]
    assert [(pin.name, pin.version) for pin in pins.read(RESOLVED)] == [("alpha", "1.0"), ("b", COMMIT)]


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@x.example/b.whl",
        "file:///etc/b.whl",
        "git+ssh://git@x.example/b@" + COMMIT,
        "git+file:///x/b@" + COMMIT,
        "git+https://x.example/b@main",
    ],
)
def test_what_a_package_would_bring_from_elsewhere_is_refused_without_its_password(url):
    with pytest.raises(BuildFailedError, match="pip: b would come from ") as refused:
        pins.only_allowed(f"alpha==1.0\nb @ {url}\n")

    assert "hunter2" not in str(refused.value)


def test_exact_repositories_are_allowed():
    pins.only_allowed(RESOLVED)


def test_a_lock_with_a_repository_is_held_to_its_hashes():
    asked = parse_text(RESOLVED)

    assert pins.held(RESOLVED, (asked,), all_listed=True) == RESOLVED
    with pytest.raises(BuildFailedError, match=r"c @ git.* is needed by another package and has no --hash"):
        pins.held(RESOLVED + f"c @ git+https://x.example/c@{COMMIT}\n", (asked,), all_listed=True)


@pytest.mark.parametrize(
    ("refspec", "ref"),
    [
        ("+refs/tags/v1.0:refs/remotes/origin/tags/v1.0", "v1.0"),
        ("+refs/heads/feature/x:refs/remotes/origin/feature/x", "feature/x"),
        ("+HEAD:refs/remotes/origin/HEAD", None),
        (f"+{COMMIT}:refs/commit/{COMMIT}", COMMIT),
    ],
)
def test_the_repository_that_is_missing_is_read_from_what_uv_says(refspec, ref):
    said = (
        "  cause: process didn't exit successfully: `/usr/bin/git fetch --force --update-head-ok "
        f"'https://x.example/y' '{refspec}'` (exit status: 128)\n    fatal: transport 'https' not allowed\n"
    )

    found = wanted(said)

    assert found is not None
    assert (found.url, found.ref) == ("https://x.example/y", ref)
    assert wanted(said.replace("transport", "something")) is None


def test_without_repositories_git_may_ask_nobody():
    told = Brought().variables()

    assert [told[f"GIT_CONFIG_KEY_{number}"] for number in range(2)] == [
        "protocol.allow",
        "protocol.file.allow",
    ]
    assert [told[f"GIT_CONFIG_VALUE_{number}"] for number in range(2)] == ["never", "user"]
    assert told["GIT_CONFIG_GLOBAL"] == "/dev/null"
