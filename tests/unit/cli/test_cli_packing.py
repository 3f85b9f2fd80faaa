"""What is packed is what was found, or is not packed."""

import io
import os
import tarfile

import pytest

from spell_cli.errors import CliError
from spell_cli.gathering import gather
from spell_cli.packing import pack


@pytest.fixture
def data(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").write_bytes(b"b")
    return tmp_path


def refused(found):
    with pytest.raises(CliError) as error:
        pack(found.files, lambda size: None)
    return error.value.message


def test_what_did_not_change_is_packed(data):
    with pack(gather(data).files, lambda size: None) as archive:
        archive.seek(0)
        with tarfile.open(fileobj=io.BytesIO(archive.read())) as packed:
            assert packed.getnames() == ["upload/a", "upload/b"]


@pytest.mark.parametrize("content", [b"0", b"01234567890123456789", b"9876543210"])
def test_a_file_that_changed_since_it_was_found_is_not_packed(data, content):
    found = gather(data)
    (data / "a").write_bytes(content)
    os.utime(data / "a", (1_700_000_000, 1_700_000_000))

    assert refused(found) == "'a' changed while it was packed."


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("b"), os.mkdir])
def test_what_is_no_file_any_more_is_neither_followed_nor_waited_for(data, make):
    found = gather(data)
    (data / "a").unlink()
    make(data / "a")

    assert refused(found).startswith("'a' ")
