"""What names of another repository stand for, and what git means by what it says."""

import pytest

from spell_proto.errors import SettingsError
from spell_storage.credentials import Login, read_hosts
from spell_storage.remote_refs import explained, is_full, is_part, read_refs

ONE, TWO, THREE, TAG = ("1" * 40, "2" * 40, "3" * 40, "a" * 40)
URL = "https://h/x"


def listed(*lines):
    return read_refs("".join(f"{name}\t{ref}\n" for name, ref in lines).encode())


def test_a_branch_goes_before_a_tag_of_the_same_name_and_an_annotated_tag_stands_for_its_commit():
    refs = listed(
        ("ref: refs/heads/main", "HEAD"),
        (ONE, "HEAD"),
        (ONE, "refs/heads/main"),
        (TWO, "refs/heads/v1"),
        (TAG, "refs/tags/v1"),
        (THREE, "refs/tags/v1^{}"),
        (THREE, "refs/pull/1/head"),
    )

    found = {
        ref: refs.find(ref)
        for ref in ("main", "v1", "refs/tags/v1", "tags/v1", "heads/v1", "HEAD", None, "pull/1/head", "v2")
    }

    assert found == {
        "main": ONE,
        "v1": TWO,
        "refs/tags/v1": THREE,
        "tags/v1": THREE,
        "heads/v1": TWO,
        "HEAD": ONE,
        None: ONE,
        "pull/1/head": None,
        "v2": None,
    }


def test_master_goes_before_the_default_branch():
    refs = listed(("ref: refs/heads/main", "HEAD"), (ONE, "refs/heads/main"), (TWO, "refs/heads/master"))

    assert refs.find(None) == TWO


def test_a_head_on_no_branch_is_the_default():
    assert listed((ONE, "HEAD"), (TWO, "refs/heads/topic")).find(None) == ONE


def test_names_that_are_no_text_and_lines_that_are_no_refs_are_left_out():
    refs = read_refs(
        b"\xff\n" + ONE.encode() + b"\trefs/heads/\xff\nnonsense\n" + f"{TWO}\trefs/heads/ok\n".encode()
    )

    assert refs.commits == {"refs/heads/ok": TWO}


@pytest.mark.parametrize(
    ("complaint", "code", "passing"),
    [
        (
            "fatal: could not read Username for 'https://h': terminal prompts disabled",
            "repository_not_found",
            False,
        ),
        ("fatal: Authentication failed for 'https://h/x/'", "repository_not_found", False),
        ("fatal: repository 'https://h/x/' not found", "repository_not_found", False),
        (
            "fatal: unable to access 'https://h/x/': The requested URL returned error: 403",
            "repository_not_found",
            False,
        ),
        (
            "fatal: unable to access 'https://h/x/': The requested URL returned error: 301",
            "fetch_failed",
            False,
        ),
        (
            "fatal: unable to access 'https://h/x/': The requested URL returned error: 502",
            "fetch_failed",
            True,
        ),
        ("fatal: unable to access 'https://h/x/': Could not resolve host: h", "fetch_failed", True),
        ("fatal: unable to access 'https://h/x/': Failed to connect to h port 443", "fetch_failed", True),
        (
            "fatal: unable to access 'https://h/x/': server certificate verification failed",
            "fetch_failed",
            False,
        ),
        ("error: RPC failed; curl 18 transfer closed\nfatal: early EOF", "fetch_failed", True),
        (
            "fatal: fsck error in packed object\nfatal: fetch-pack: invalid index-pack output",
            "fetch_failed",
            False,
        ),
        ("fatal: something new\x1b[2J", "fetch_failed", False),
        ("", "fetch_failed", False),
    ],
)
def test_what_git_says_is_told_in_one_sentence(complaint, code, passing):
    error = explained(URL, complaint)

    assert (error.code, error.passing) == (code, passing)
    assert error.message.startswith(f"{URL}: ")
    assert error.message.isprintable()


def test_hashes_are_told_from_their_beginnings():
    assert is_full(ONE)
    assert is_full("0" * 64)
    assert not is_full("1" * 39)
    assert not is_full(None)
    assert is_part("622d64")
    assert not is_part("622")
    assert not is_part("main")


def test_hosts_are_read_from_a_list():
    assert read_hosts(" github.com, Git.Example.com:443,127.0.0.1:8443,github.com,") == (
        "github.com",
        "git.example.com",
        "127.0.0.1:8443",
    )


@pytest.mark.parametrize("setting", ["https://github.com", "a b", "u:p@h", "h/x", "-h"])
def test_what_is_no_host_is_no_setting(setting):
    with pytest.raises(SettingsError):
        read_hosts(setting)


def test_a_password_is_not_in_what_is_printed_of_a_login():
    assert "secret" not in repr(Login("u", "secret"))
    assert "secret" not in str(Login("u", "secret"))
