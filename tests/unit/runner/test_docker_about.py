"""What a daemon says of itself: whether it is too old, what it can run, and whether it maps users."""

import pytest

from spell_runner.engines import about

INFO = {"SecurityOptions": ["name=seccomp,profile=default"], "DockerRootDir": "/var/lib/docker"}


def version(**parts):
    components = [{"Name": name, "Version": number} for name, number in parts.items()]
    return {"Version": "1", "ApiVersion": "1.41", "Arch": "amd64", "Components": components}


@pytest.mark.parametrize(
    ("number", "old"),
    [
        ("1.1.5+ds1", True),
        ("1.2.7", True),
        ("1.2.8", False),
        ("1.3.2", True),
        ("1.3.3", False),
        ("1.4.0-rc.1", False),
        ("v2.0", False),
        ("unknown", False),
    ],
)
def test_what_is_older_than_the_repair_of_its_series_is_told(number, old):
    said = about.read(version(runc=number, init="0.1"), INFO).outdated

    assert said == ((f"runc {number} is older than 1.2.8 or 1.3.3",) if old else ())


def test_a_daemon_that_says_little_is_taken_as_it_is():
    found = about.read({"Version": "1", "ApiVersion": "1.41"}, {})

    assert (found.outdated, found.mapped, found.maps_users) == ((), None, False)
    assert found.runs("arm64")


@pytest.mark.parametrize(
    ("processor", "runs"), [("amd64", True), ("386", True), ("", True), ("arm64", False), ("s390x", False)]
)
def test_programs_for_another_processor_do_not_run(processor, runs):
    assert about.read(version(), INFO).runs(processor) is runs


def test_mapped_users_are_known_by_the_name_of_the_daemons_directory():
    mapped = {"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}

    found = about.read(version(), mapped | {"DockerRootDir": "/var/lib/docker/100000.200000"})
    strange = about.read(version(), mapped | {"DockerRootDir": "/elsewhere"})

    assert (found.maps_users, found.mapped) == (True, (100_000, 200_000))
    assert (strange.maps_users, strange.mapped) == (True, None)


@pytest.mark.parametrize(
    "said", [{}, {"Version": "1"}, {"Version": "1", "ApiVersion": "1", "Components": [3]}, []]
)
def test_what_is_not_docker_is_told_by_its_answers(said):
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        about.read(said, {})
