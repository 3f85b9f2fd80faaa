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
    assert "spell cluster add-docker-registry" in caught.value.hint
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

    with pytest.raises(ValidationError, match="cannot be specified when --from is provided"):
        RunRequest(command="x", docker_image="python", environment=EnvironmentRequest(pip=("numpy",)))


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("Registry.Example.org:5000", "registry.example.org:5000"),
        ("localhost", "localhost"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("box:5000", "box:5000"),
    ],
)
def test_a_registry_is_called_as_names_of_its_images_begin(given, known):
    assert images.registry_name(given) == known
    assert images.parse(f"{given}/a/b").registry == known


@pytest.mark.parametrize(
    "given",
    [
        "",
        "python",
        "team",
        "https://registry.example.org",
        "registry.example.org/v2/",
        "ada:secret@registry.example.org",
        "registry.example.org:",
        "registry.example.org:0",
        "registry.example.org:65536",
        "registry.example.org:port",
        "registry.example.org:50 00",
        "registry..example.org",
        "-oProxy.example.org",
        ".example.org",
        "registry.example.org\n",
        "registry.example.org\0",
        "rеgistry.example.org",
        "[::1]:5000",
        "x" * 300 + ".org",
    ],
)
def test_what_is_no_registry_is_refused(given):
    with pytest.raises(InvalidError) as caught:
        images.registry_name(given)

    assert (caught.value.code, caught.value.field) == ("registry_invalid", "registry")
    assert "is no registry, as in registry.example.org" in str(caught.value)


def test_registries_with_logins_of_their_own_kind_are_told_apart():
    assert images.ecr("123456789012.dkr.ecr.us-west-2.amazonaws.com") == ("123456789012", "us-west-2")
    assert images.ecr("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn") == ("123456789012", "cn-north-1")
    assert not any(map(images.ecr, ("public.ecr.aws", "1.dkr.ecr.x.amazonaws.com", "amazonaws.com")))
    assert all(map(images.is_google, ("gcr.io", "eu.gcr.io", "europe-west1-docker.pkg.dev")))
    assert not any(map(images.is_google, ("docker.io", "gcr.io.example.org", "x-python.pkg.dev")))
