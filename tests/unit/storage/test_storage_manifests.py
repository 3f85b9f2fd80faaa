"""The canonical form of a manifest: the same however it was sent, and made in little memory."""

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from spell_proto.errors import InvalidError, RefusedError
from spell_proto.spec import canonical_json
from spell_proto.views import Manifest, ManifestEntry
from spell_storage import manifests

#: Reads a manifest of so many files; how many bytes that took, for each byte of it.
MEMORY = """
import hashlib, json, resource, sys
from spell_storage import manifests
entry = {"mode": 420, "modified_at": "2026-01-01T00:00:00Z", "link": None}
files = [
    json.dumps({"path": f"data/train/{n:07}.jpg", "size": n, "sha256": hashlib.sha256(b"%d" % n).hexdigest(), **entry})
    for n in range(int(sys.argv[1]))
]
data = ('{"entries":[' + ",".join(files) + '],"deleted":[]}').encode()
del files
def now():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
before = now()
assert manifests.read(data).files == int(sys.argv[1])
print((now() - before) / len(data))
"""


def entry(path, *, link=None, zone=UTC, size=3):
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC).astimezone(zone)
    digest = hashlib.sha256(path.encode()).hexdigest()
    return ManifestEntry(path=path, size=size, sha256=digest, mode=0o644, modified_at=moment, link=link)


def sent(manifest, **how):
    return json.dumps(json.loads(manifest.model_dump_json()), **how).encode()


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1_234])
@pytest.mark.parametrize("how", [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_it_is_the_same_however_it_was_sent(count, how):
    zone = timezone(timedelta(hours=5))
    paths = [f"d/{number}-ä, ]}}" for number in range(count)]
    there = Manifest(
        entries=tuple(entry(path, zone=zone) for path in reversed(paths)), deleted=("z", "a", "z")
    )
    wanted = Manifest(entries=tuple(entry(path) for path in sorted(paths)), deleted=("a", "z"))

    found = manifests.read(sent(there, **how))

    assert found.data == canonical_json(wanted.model_dump())
    assert found == manifests.of(there)
    assert (found.files, found.bytes, len(found.sizes)) == (count, 3 * count, count)


def test_a_file_that_was_written_to_is_flagged_and_all_others_are_what_they_were():
    calm = entry("calm")
    flagged = entry("big").model_copy(update={"changed": True})

    found = manifests.read(sent(Manifest(entries=(flagged, calm))))

    big, told = json.loads(found.data)["entries"]
    assert big["changed"] is True
    assert list(told) == ["link", "mode", "modified_at", "path", "sha256", "size"]


def test_a_link_needs_no_blob():
    link = entry("link", link="to", size=0)

    found = manifests.read(sent(Manifest(entries=(link, entry("a")))))

    assert (found.files, found.bytes, list(found.sizes)) == (1, 3, [entry("a").sha256])
    [_, told] = json.loads(found.data)["entries"]
    assert (told["size"], told["sha256"]) == (2, hashlib.sha256(b"to").hexdigest())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"entries": {}}',
        '{"entries": [], "entries": []}',
        '{"entries": [], "more": 1}',
        '{"entries": []} x',
        '{"entries": [1]}',
        '{"entries": [{"path": "a"}]}',
        '{"entries": [{"path": "a", "path": "b"}]}',
        '{"entries": [,]}',
        '{"entries": [], "deleted": [1]}',
        '{"entries": []',
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(RefusedError):
        manifests.read(text.encode())


@pytest.mark.parametrize("paths", [("a", "a"), ("../a",), ("a//b",), ("",), ("a\0",)])
def test_paths_that_no_directory_could_hold_are_refused(paths):
    entries = tuple(entry(path) for path in paths)

    with pytest.raises(InvalidError) as refused:
        manifests.read(sent(Manifest(entries=entries)))

    assert refused.value.code == "manifest_invalid"


def test_equal_bytes_have_one_size():
    one = entry("a")

    with pytest.raises(InvalidError, match="of another size"):
        manifests.of(Manifest(entries=(one, one.model_copy(update={"path": "b", "size": 4}))))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_in_proportion():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "60000"], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 7
