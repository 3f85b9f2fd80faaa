"""Why an image cannot be had, from what Docker says."""

import pytest

from spell_proto.pulling import cause


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("manifest for x:1 not found: manifest unknown: manifest unknown", "no such image or tag"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "processor of this machine"),
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            "no such image, or it is private",
        ),
        ("Head https://r/v2/x/manifests/1: no basic auth credentials", "wants a login"),
        ("unauthorized: authentication required", "wants a login"),
        ("failed to register layer: write /x: no space left on device", "no room"),
        ("toomanyrequests: You have reached your pull rate limit", "limits how much"),
        (
            "Get https://nowhere.invalid/v2/: dial tcp: lookup nowhere.invalid: no such host",
            "cannot be found",
        ),
        (
            "Get http://127.0.0.1:1/v2/: dial tcp 127.0.0.1:1: connect: connection refused",
            "cannot be reached",
        ),
    ],
)
def test_every_cause_has_a_sentence_with_dockers_words_behind_it(said, told):
    assert told in cause(said)
    assert cause(said).endswith(f"({said})")


def test_a_missing_login_says_what_an_administrator_can_do():
    """And a login that is stored, but not taken, says so."""
    said = "unauthorized: authentication required"
    command = "an administrator can store {}: spell cluster add-docker-registry --registry r.example.org"

    assert command.format("one") in cause(said, "r.example.org")
    stored = cause(said, "r.example.org", stored=True)
    assert "the one that is stored for r.example.org cannot" in stored
    assert command.format("another") in stored
    amazons = cause(said, "123456789012.dkr.ecr.us-west-2.amazonaws.com")
    assert "can store one: spell cluster add-docker-registry (" in amazons
    assert "add-docker-registry" not in cause("no space left on device", "r.example.org")


def test_what_nobody_has_heard_of_is_told_as_it_is():
    assert cause("the whale is asleep") == "the whale is asleep"
