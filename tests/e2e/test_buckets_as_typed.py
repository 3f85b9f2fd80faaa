"""Buckets as people type them: a public one for anybody, a private one once it is added, and its secret found nowhere."""

import re
from pathlib import Path

import pytest

from support import buckets

pytestmark = pytest.mark.e2e
SECRET = "hunter2-hunter2-hunter2"
KEY = "AKIAREADERREADER"


@pytest.fixture(scope="module", name="clouds")
def _clouds(tmp_path_factory):
    with buckets.clouds(tmp_path_factory.mktemp("clouds")) as clouds:
        clouds.bucket("rain", {"annual/monthly/2024.csv": b"12 mm\n", "annual/monthly/2025.csv": b"7 mm\n"})
        yield clouds


@pytest.fixture(scope="module")
def settings(clouds):
    return clouds.settings


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    return stack.repository({"main.py": "print(open('data/2024.csv').read())\n"}, name="weather")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_data_of_a_public_bucket_is_in_the_directory_of_a_run(stack, project, scheme):
    url = f"{scheme}://rain/annual/monthly"

    listed = stack.spell("ls", url)
    ran = stack.spell("run", "-f", "-m", f"{url}:data", "python main.py; cat data/2025.csv", cwd=project)
    told = stack.spell("info", re.search(r"#(\d+)", ran.stdout)[1])

    assert [line.split()[-1] for line in listed.stdout.splitlines()] == ["2024.csv", "2025.csv"]
    assert ran.rc == 0, ran
    assert {"12 mm", "7 mm"} <= set(ran.stdout.splitlines())
    assert f"{url} at /spell/weather/data" in told.stdout


@pytest.mark.parametrize(
    ("url", "rc", "why"),
    [
        ("s3://nowhere", 1, "'s3://nowhere': there is no such bucket"),
        ("s3://rain/monthly", 1, "'s3://rain/monthly': no such object, nor any below it"),
        ("s3://UPPER_/", 2, "after '://' comes the name of a bucket"),
        ("s3://", 2, "Incorrect formatting of mount 's3://:data'"),
    ],
)
def test_a_bucket_that_is_no_resource_is_refused_before_code_is_pushed(stack, project, url, rc, why):
    before = stack.spell("ps", "--json").stdout

    ran = stack.spell("run", "-f", "-m", f"{url}:data", "true", cwd=project)

    assert ran.rc == rc, ran
    assert why in " ".join(ran.stderr.split())
    assert "Pushing" not in ran.stdout
    assert stack.spell("ps", "--json").stdout == before


def test_a_private_bucket_is_mounted_once_it_is_added_and_its_secret_is_found_nowhere(stack, project, clouds):
    clouds.bucket("team-data", {"set/a": b"for us alone\n"}, public=False)
    words = ("run", "-f", "-m", "s3://team-data/set/a:/mnt/a", "cat /mnt/a; env")

    refused = stack.spell(*words, cwd=project)
    added = stack.spell(
        "cluster", "add-bucket", "s3://team-data", "--access-key-id", KEY, "--secret-stdin", stdin=SECRET
    )
    ran = stack.spell(*words, cwd=project)
    listed = stack.spell("cluster", "list-buckets")
    removed = stack.spell("cluster", "remove-bucket", "s3://team-data")
    again = stack.spell(*words, cwd=project)

    assert refused.rc == again.rc == 1, (refused, again)
    assert "spell cluster add-bucket s3://team-data" in " ".join(refused.stderr.split())
    assert added.stdout == f"Successfully added s3://team-data, read with the key of {KEY}.\n"
    assert ran.rc == 0, ran
    assert "for us alone" in ran.stdout.splitlines()
    assert (KEY in listed.stdout, removed.rc) == (True, 0)
    everything = "".join(each.stdout + each.stderr for each in (refused, added, ran, listed, removed, again))
    files = [path for path in stack.data.rglob("*") if path.is_file() and not path.is_symlink()]
    assert "hunter2" not in everything
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
