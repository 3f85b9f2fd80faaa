"""Names of images: what Docker itself takes them for, and what is refused with which words."""

import pytest
from pydantic import ValidationError

from spell_proto import images
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest, RunRequest

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
        ("team/image", "docker.io/team/image:latest"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/team/image:1", "docker.io/team/image:1"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("Registry.Example.org:5000/a__b/c-d.e:T_1", "registry.example.org:5000/a__b/c-d.e:T_1"),
        ("localhost/a", "localhost/a:latest"),
        (f"python@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        (f"python:3@{DIGEST}", f"docker.io/library/python:3@{DIGEST}"),
        # Docker, too, takes a first part without a dot for the name of a team.
        ("metadata/x", "docker.io/metadata/x:latest"),
    ],
)
def test_a_name_has_one_whole_form(given, whole):
    assert images.whole(given) == whole
    assert images.whole(whole) == whole


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("A/B:Tag", "small letters only"),
        ("x:", "a tag is"),
        (":x", "small letters and digits"),
        ("", "small letters and digits"),
        ("x@sha256:zz", "64 digits"),
        ("x@", "64 digits"),
        ("x" * 300, "above 255"),
        ("x" * 600, "at most 512"),
        ("a//b", "small letters and digits"),
        ("a/../b", "small letters and digits"),
        ("--privileged", "small letters and digits"),
        ("x y", "small letters and digits"),
        ("x:t\n", "a tag is"),
        ("-.example/x", "no registry"),
        ("https://example.org/x", "no registry"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(given, words):
    with pytest.raises(InvalidError) as caught:
        images.parse(given)

    assert (caught.value.code, caught.value.field) == ("image_ref_invalid", "docker_image")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "given", ["localhost:5000/x", "10.0.0.1/x", "169.254.169.254/x", "metadata.internal/x"]
)
def test_a_registry_that_nobody_listed_is_refused(given):
    with pytest.raises(InvalidError) as caught:
        images.check_registry(given, images.REGISTRIES)

    assert caught.value.code == "registry_not_allowed"
    images.check_registry(given, f"docker.io, {images.parse(given).registry}")


@pytest.mark.parametrize(
    "given",
    [
        "python",
        "ghcr.io/a/b",
        "eu.gcr.io/p/i",
        "1.dkr.ecr.us-east-1.amazonaws.com/i",
        "us-docker.pkg.dev/p/r/i",
    ],
)
def test_registries_that_everybody_knows_are_asked(given):
    images.check_registry(given, images.REGISTRIES)


def test_an_image_is_the_whole_environment_of_a_request():
    request = RunRequest(command="x", docker_image="python")
    assert request.docker_image == "docker.io/library/python:latest"

    with pytest.raises(ValidationError, match="an image is the whole environment"):
        RunRequest(command="x", docker_image="python", environment=EnvironmentRequest(pip=("numpy",)))
