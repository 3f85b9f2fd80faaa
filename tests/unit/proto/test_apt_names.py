"""Names of Debian packages and of frameworks: what is taken, its one form, and what is refused."""

import pytest

from spell_proto import apt, frameworks
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("ffmpeg", "ffmpeg"),
        ("g++", "g++"),
        ("libstdc++6", "libstdc++6"),
        ("ffmpeg=7:5.1.6-0+deb12u1", "ffmpeg==7:5.1.6-0+deb12u1"),
        ("ffmpeg == 7:5.1.6", "ffmpeg==7:5.1.6"),
        ("ffmpeg>=7:5", "ffmpeg>=7:5"),
        ("curl<8~", "curl<8~"),
    ],
)
def test_a_package_has_one_form(typed: str, form: str) -> None:
    assert str(apt.parse(typed)) == form


@pytest.mark.parametrize(
    "typed",
    [
        "hostname-",
        "-oX=1",
        "./x.deb",
        "curl;id",
        "libc.*",
        "ffmpeg/stable",
        "ffmpeg:i386",
        "",
        "a",
        "Curl",
        "x==",
        "curl\n",
        "curl==$(id)",
        "curl=1=2",
        "curl!=1",
        "ｃurl",
        "c" * 300,
        "--",
        "curl ffmpeg",
    ],
)
def test_what_apt_would_take_for_an_order_or_a_pattern_is_refused(typed: str) -> None:
    with pytest.raises(InvalidError) as refused:
        apt.parse(typed)
    assert refused.value.code == "apt_name_invalid"
    assert refused.value.field == "apt"


def test_more_system_packages_than_anybody_needs_are_refused() -> None:
    with pytest.raises(InvalidError) as refused:
        apt.packages(("curl",) * 201)
    assert refused.value.code == "too_many_packages"


def test_a_framework_is_named_in_whatever_case() -> None:
    assert frameworks.framework("PyTorch==2.9.1") == "pytorch==2.9.1"


@pytest.mark.parametrize(
    "typed", ["", "py torch", "pytorch=2", "pytorch==", "../x", "pytorch>=2", "x" * 101, "-x"]
)
def test_what_cannot_be_a_framework_is_refused(typed: str) -> None:
    with pytest.raises(InvalidError) as refused:
        frameworks.parse(typed)
    assert refused.value.code == "framework_invalid"


def test_the_order_of_system_packages_makes_no_other_request() -> None:
    one = EnvironmentRequest(apt=("curl", "ffmpeg=7:5"))
    other = EnvironmentRequest(apt=("ffmpeg==7:5", "curl", "curl"))
    assert one.digest() == other.digest()
    assert one.digest() != EnvironmentRequest().digest()
