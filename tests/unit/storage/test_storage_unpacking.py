"""Archives of anybody's: what is read of them, and what is refused."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

from spell_proto.views import MANIFEST_BYTES_MAX
from spell_storage import manifest_rules, unpacking
from spell_storage.unpacking import Limits

FEW = Limits(files=5, bytes=100_000, any_bytes=50_000, ratio=10)


def member(name, content=b"", **more):
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for field, value in more.items():
        setattr(made, field, value)
    return made, io.BytesIO(content)


def packed(*members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as archive:
        for made, content in members:
            archive.addfile(made, content)
    return out.getvalue()


def told(data, *, limits=FEW):
    """The lines that are said of an archive."""
    out = io.BytesIO()
    unpacking.tell(io.BytesIO(data), out, with_bytes=False, limits=limits)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def refused(data, **more):
    return told(data, **more)[-1]["refused"]


def directory(name):
    return member(name, type=tarfile.DIRTYPE)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_files_are_described_below_their_root(form):
    names = ["a", "d/b c", "x" * 255, "é", "e\u0301", "new\nline", "d/" + "y" * 120]
    files = [member(f"upload/{name}", name.encode(), mode=0o750, mtime=1_700_000_000) for name in names[:5]]
    lines = told(packed(directory("upload"), directory("upload/d"), *files, form=form))

    assert [line.get("path") for line in lines] == [*names[:5], None]
    assert lines[-1] == {"end": 5}
    assert lines[0] == {
        "path": "a", "size": 1, "mode": 0o750, "mtime": 1_700_000_000, "sha256": hashlib.sha256(b"a").hexdigest(),
    }  # fmt: skip
    assert [
        line["path"] for line in told(packed(*(member(f"upload/{name}") for name in names[5:])))[:-1]
    ] == names[5:]


def test_bytes_follow_their_file():
    out = io.BytesIO()
    data = packed(member("upload/a", b"12"), member("upload/b"), member("upload/c", b"\n"))
    unpacking.tell(io.BytesIO(data), out, with_bytes=True, limits=FEW)
    first, rest = out.getvalue().split(b"\n", 1)

    assert json.loads(first)["path"] == "a"
    assert rest.startswith(b'12{"path": "b"')
    assert rest.endswith(b'\n\n{"end": 3}\n')


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (member("upload/x", type=tarfile.SYMTYPE, linkname="/etc/shadow"), "'upload/x' is a link"),
        (member("upload/x", type=tarfile.LNKTYPE, linkname="upload/a"), "'upload/x' is a link"),
        (member("upload/x", type=tarfile.CHRTYPE), "is neither file nor directory"),
        (member("upload/x", type=tarfile.BLKTYPE), "is neither file nor directory"),
        (member("upload/x", type=tarfile.FIFOTYPE), "is neither file nor directory"),
        (member("upload/x", type=b"Z"), "is neither file nor directory"),
        (member("upload/../x"), "is not a path below 'upload/'"),
        (member("upload/a/../../x"), "is not a path below 'upload/'"),
        (member("/upload/x"), "is not a path below 'upload/'"),
        (member("/etc/passwd"), "is not a path below 'upload/'"),
        (member("upload//x"), "is not a path below 'upload/'"),
        (member("upload/./x"), "is not a path below 'upload/'"),
        (member("x"), "is not a path below 'upload/'"),
        (member("uploads/x"), "is not a path below 'upload/'"),
        (member("upload"), "'upload' is no directory"),
        (member("upload/\udcff"), "is not valid UTF-8"),
        (member("upload/x", mode=0o4755), "would run as somebody else: its mode is 4755"),
        (member("upload/" + "y/" * 2100 + "z"), "is longer than 4096 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_upload_may_not_hold_is_refused_by_name(made, why):
    assert why in refused(packed(member("upload/fine", b"x"), made))


def test_a_sparse_file_is_refused(tmp_path):
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10 << 20)
    archive = tmp_path / "x.tar.gz"
    words = [
        "tar",
        "--sparse",
        "--transform",
        "s,^,upload/,",
        "-czf",
        str(archive),
        "-C",
        str(tmp_path),
        "holes",
    ]
    subprocess.run(words, check=True)

    assert "'upload/holes' is neither file nor directory" in refused(archive.read_bytes())


def test_a_file_that_is_there_twice_is_refused():
    assert refused(packed(member("upload/a"), member("upload/a"))) == "'a' is there twice"


def test_too_many_files_are_refused():
    assert "more than 5 files" in refused(packed(*(member(f"upload/{number}") for number in range(6))))


def test_too_many_bytes_are_refused():
    assert "more than 100000 bytes" in refused(packed(member("upload/a", os.urandom(120_000))))


def test_what_unfolds_too_far_is_refused():
    assert "more than 10 times its size" in refused(packed(member("upload/a", bytes(90_000))))


def test_what_is_shipped_lets_an_archive_unfold_to_a_hundred_times_its_size():
    """Zeros fold to a thousandth; the first 64 MiB are nobody's concern."""
    archive = packed(member("upload/a", bytes(70 << 20)))

    assert 100 * len(archive) < 70 << 20
    assert refused(archive, limits=Limits()) == "it unfolds to more than 100 times its size"


@pytest.mark.parametrize("cut", [1, 8, 30, 600])
def test_an_archive_that_is_cut_off_is_refused(cut):
    data = packed(member("upload/a", os.urandom(2000)))

    assert "it is damaged" in refused(data[:-cut])


def test_any_flipped_bit_is_refused_or_changes_no_content():
    data = packed(member("upload/a", b"content"), member("upload/b", os.urandom(500)))
    whole = [line.get("sha256") for line in told(data)]
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 4
        lines = told(bytes(changed))
        assert "refused" in lines[-1] or [line.get("sha256") for line in lines] == whole, position


@pytest.mark.parametrize("how", ["cut off", "flipped"])
def test_damage_within_the_bytes_of_a_file_is_refused_as_damage_between_files_is(how):
    data = packed(member("upload/a", os.urandom(3 << 20)), member("upload/b", b"2"))
    middle = len(data) // 2
    flipped = bytes([data[middle] ^ 0xFF, data[middle + 1] ^ 0x55])
    damaged = data[:middle] if how == "cut off" else data[:middle] + flipped + data[middle + 2 :]

    assert "it is damaged" in refused(damaged, limits=Limits())


@pytest.mark.parametrize("size", ["99999999999", "-5"])
def test_a_size_that_is_not_the_size_is_refused(size):
    assert "upload.tar.gz" not in refused(packed(member("upload/a", b"1", pax_headers={"size": size})))


@pytest.mark.parametrize("moment", ["nan", "inf", "-inf"])
def test_a_time_that_is_no_time_is_the_beginning_of_time(moment):
    assert told(packed(member("upload/a", b"1", pax_headers={"mtime": moment})))[0]["mtime"] == 0


def test_what_stands_behind_the_end_of_an_archive_is_refused():
    one, two = packed(member("upload/a", b"1")), packed(member("upload/b", b"2"))

    assert "there is something behind its end" in refused(one + two)
    assert told(one + gzip.compress(bytes(4096)))[-1] == {"end": 1}


def test_more_paths_than_a_manifest_may_have_are_refused():
    data = packed(*(member(f"upload/{'d' * 200}/{number}") for number in range(5)))

    assert "too long for so many of them" in refused(data, limits=Limits(told_bytes=1500))


def test_the_process_and_the_service_agree_on_what_a_manifest_may_say():
    assert unpacking.TOLD_BYTES_MAX == MANIFEST_BYTES_MAX
    assert unpacking.ENTRY_BYTES == manifest_rules.ENTRY_BYTES


@pytest.mark.parametrize("data", [b"", b"x" * 100, gzip.compress(b"x" * 5000), gzip.compress(b"")])
def test_what_is_no_archive_is_refused(data):
    assert "it is damaged" in refused(data)


def test_an_archive_of_nothing_has_no_files():
    assert told(packed()) == [{"end": 0}]


@pytest.mark.parametrize("what", ["list", "bytes"])
def test_the_process_has_little_memory_and_writes_no_files(what, tmp_path):
    header = tarfile.TarInfo("upload/x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    bomb = gzip.compress(header.tobuf() + bytes(300 << 20), 1)
    line = [sys.executable, "-I", "-m", "spell_storage.unpacking", what]
    done = subprocess.run(
        line, input=bomb, capture_output=True, cwd=tmp_path, check=False, timeout=60, env={}
    )

    assert "refused" in json.loads(done.stdout.splitlines()[-1]), done
    assert list(tmp_path.iterdir()) == []
