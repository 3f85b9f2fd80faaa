"""Resource paths and mounts: what is understood, and what is refused with which code."""

import pytest

from spell_proto import mounts, resources
from spell_proto.errors import InvalidError
from spell_proto.mounts import MountRequest
from spell_proto.resources import InBucket, Linked, Listing, Public, RunFiles, Upload
from spell_proto.spec import GithubSource, RunRequest


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Listing("")),
        ("/", Listing("")),
        ("runs", Listing("runs")),
        ("runs/", Listing("runs")),
        ("runs/7", RunFiles(7, None, "")),
        ("runs/7@2/a/b/", RunFiles(7, 2, "a/b")),
        ("uploads/x", Upload("x", "")),
        ("uploads/x/y", Upload("x", "y")),
        ("public/image/mnist", Public("image/mnist")),
        ("model/ckpt", Linked("model", "ckpt")),
        ("s3://bucket", InBucket("s3", "bucket", "")),
        ("gs://bucket/a/b/", InBucket("gs", "bucket", "a/b")),
    ],
)
def test_a_path_names_a_resource(text, found):
    assert resources.parse(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "runs/0", "runs/x", "runs/7@0", "runs/07", "runs/1/../../x", "runs/1/%2e%2e/x", "a//b", "runs//1", "a;b",
        "runs/1/\0", "x" * 5000,
    ],
)  # fmt: skip
def test_what_names_none_is_refused(text):
    with pytest.raises(InvalidError) as refused:
        resources.parse(text)
    assert refused.value.code == "path_invalid"


@pytest.mark.parametrize(
    "text", ["s3://", "s3://UPPER_/", "s3://a/../b", "s3://bucket//x", "http://x.de/a", "s3://a..b/c"]
)
def test_what_is_no_bucket_is_refused(text):
    with pytest.raises(InvalidError) as refused:
        resources.parse(text)
    assert refused.value.code == "bucket_invalid"


@pytest.mark.parametrize(
    ("text", "resource", "target"),
    [
        ("runs/1/data:datasets", "runs/1/data", "datasets"),
        ("runs/10/logs/:data", "runs/10/logs/", "data"),
        ("uploads/vgg", "uploads/vgg", None),
        ("s3://silo-open-data/annual/monthly_rain:data", "s3://silo-open-data/annual/monthly_rain", "data"),
        ("s3://dvc-share/dvc/:/mnt/dvc", "s3://dvc-share/dvc/", "/mnt/dvc"),
    ],
)
def test_a_mount_is_a_resource_and_a_path(text, resource, target):
    assert mounts.parse(text) == MountRequest(resource=resource, target=target)


@pytest.mark.parametrize("text", ["a:b:c", "a:b:c:d", ":x", "x:", "", ":", "s3://a:b://c"])
def test_what_is_no_mount_is_refused(text):
    with pytest.raises(InvalidError) as refused:
        mounts.parse(text)
    assert refused.value.code == "mount_syntax"
    assert refused.value.field == "mounts"
    assert "<resource_path>[:<mount_path>]" in refused.value.message


def targets(*requests: str, cwd: str = "/spell/proj/sub") -> list[str]:
    return mounts.placed([mounts.parse(text) for text in requests], cwd)


def test_targets_are_below_the_working_directory_or_absolute():
    assert targets("runs/1/data:sets", "uploads/x", "runs/2/a.txt", "runs/7") == [
        "/spell/proj/sub/sets",
        "/spell/proj/sub/x",
        "/spell/proj/sub/a.txt",
        "/spell/proj/sub/7",
    ]
    assert targets("runs/1:/mnt/a/", "runs/1:../b", "runs/1:/data/x/y") == [
        "/mnt/a",
        "/spell/proj/b",
        "/data/x/y",
    ]


@pytest.mark.parametrize(
    "target",
    [
        "/", "/proc/x", "/etc/x", "/mnt/../etc", "/mnt", "/mnt/", "/spell", ".", "..", "../../..", "../../../etc", "/spell/proj",
        "/spell/proj/sub", ".git", "/spell/proj/.git/x", "a\\b", "a\nb", "x" * 256, "//etc/x",
    ],
)  # fmt: skip
def test_a_target_stays_where_mounts_belong(target):
    with pytest.raises(InvalidError) as refused:
        targets(f"runs/1:{target}")
    assert refused.value.code == "mount_target_forbidden"


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("runs/1:a\nb", "a line break"),
        ("runs/1:a\\b", "a backslash"),
        ("runs/1:" + "x" * 5000, "at most 4096 bytes"),
        ("runs/1:/mnt/./x", "no '.' is allowed"),
        ("runs/1:/mnt/../x", "no '..' is allowed"),
        ("runs/1:~/y", "'~' is not expanded"),
        ("runs/1:~", "'~' is not expanded"),
        (
            "uploads/x/new\nline",
            "under its own name: it holds a line break or another control character; say where",
        ),
    ],
)
def test_why_a_target_is_none_is_said_of_what_is_wrong(mount, why):
    with pytest.raises(InvalidError) as refused:
        targets(mount)
    assert refused.value.code == "mount_target_forbidden"
    assert why in refused.value.message


def test_an_odd_name_is_mounted_where_somebody_says():
    assert targets("uploads/x/new\nline:y", "uploads/x:~y") == ["/spell/proj/sub/y", "/spell/proj/sub/~y"]


@pytest.mark.parametrize(
    "pair", [("runs/1:a", "runs/2:a"), ("runs/1:a", "runs/2:a/b"), ("runs/1:/mnt/a/b", "runs/1:/mnt/a")]
)
def test_no_mount_is_in_another(pair):
    with pytest.raises(InvalidError) as refused:
        targets(*pair)
    assert refused.value.code == "mount_target_conflict"
    assert "runs/1" in refused.value.message


def test_one_resource_is_mounted_at_two_places():
    assert targets("runs/1:a", "runs/1:b") == ["/spell/proj/sub/a", "/spell/proj/sub/b"]


def test_a_request_checks_its_mounts_where_its_command_starts():
    asked = RunRequest(
        command="true",
        github=GithubSource(url="https://github.com/a/proj.git"),
        mounts=(MountRequest(resource="runs/1"),),
    )
    assert asked.working_directory == "/spell/proj"
    with pytest.raises(ValueError, match="'runs/1' and 'runs/1' would both be at /spell/a"):
        RunRequest(command="true", mounts=(MountRequest(resource="runs/1", target="a"),) * 2)
    above = (MountRequest(resource="runs/1", target="a"), MountRequest(resource="runs/1", target="a/b"))
    with pytest.raises(ValueError, match="one cannot be in the other"):
        RunRequest(command="true", mounts=above)
