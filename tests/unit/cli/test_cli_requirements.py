"""What --pip-req reads: includes in their place with their lines, and nothing that is not the repository's."""

import os
from pathlib import Path

import pytest

from spell_cli.requirements import read
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    (path / ".git").mkdir(parents=True)
    (path / "sub").mkdir()
    return path


def write(project: Path, **files: str) -> None:
    for name, text in files.items():
        (project / f"{name}.txt").write_text(text)


def test_included_files_stand_in_the_place_of_their_names_each_once(project):
    write(
        project,
        req="-r sub/base.txt\n--requirement=sub/base.txt\nsix  # last\n",
        limits="numpy<2\n-r more.txt",
    )
    write(project, more="scipy<2")
    (project / "sub/base.txt").write_text("# base\nnumpy\n-c ../limits.txt\n-r ../req.txt")

    found = read("req.txt", project)

    assert found.requirements == "numpy # sub/base.txt:2\nsix # req.txt:3\n"
    assert found.constraints == "numpy<2 # limits.txt:1\nscipy<2 # more.txt:1\n"
    assert found.warnings == ()


def test_names_are_relative_to_where_you_stand_and_the_server_tells_the_same_lines(project):
    (project / "req.txt").write_text("\n-r sub/base.txt")
    (project / "sub/base.txt").write_text("six \\\n  ==1.0\n")

    found = read("../req.txt", project / "sub")

    assert found.requirements == "six==1.0 # base.txt:1\n"
    (entry,) = EnvironmentRequest(requirements=found.requirements).parsed()[0].entries
    assert entry.origin == "base.txt:1"


def test_hashes_and_indexes_are_kept(project):
    digest = "sha256:" + "a" * 64
    write(project, req=f"--extra-index-url https://x.example/whl\nsix==1.0 \\\n --hash={digest}\n")

    assert read("req.txt", project).requirements == (
        f"--extra-index-url https://x.example/whl # req.txt:1\nsix==1.0 --hash={digest} # req.txt:2\n"
    )


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("-r ../outside.txt", "outside of"),
        ("-c /etc/passwd", "outside of"),
        ("-r -", "-r '-': a file of the repository is allowed"),
        ("-r https://x.example/req.txt", "a file of the repository is allowed"),
        ("-r ${HOME}/x", "a file of the repository is allowed"),
        ("-r", "-r '': a file"),
        ("-r nowhere.txt", "file not found: nowhere.txt"),
        ("-r sub", "sub is a directory"),
        ("-e /etc", "a directory of the repository is allowed"),
        ("-e ../x", "it is outside of"),
        ("--find-links x", "the option --find-links is not allowed"),
    ],
)
def test_a_line_that_is_not_allowed_is_named(project, line, part):
    write(project, req=f"six\n\n{line}\n")

    with pytest.raises(InvalidError) as refused:
        read("req.txt", project)

    assert refused.value.message.startswith("--pip-req: req.txt, line 3: ")
    assert part in refused.value.message


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("missing.txt", None, "file_not_found", "--pip-req file not found: missing.txt"),
        ("sub", None, "not_a_file", "--pip-req: sub is a directory"),
        ("pipe", None, "not_a_file", "--pip-req: pipe is no regular file"),
        ("large.txt", b"#" * (50 << 20), "file_too_large", "large.txt is above 512 KiB"),
        ("wide.txt", "six".encode("utf-16"), "not_text", "wide.txt is UTF-16; save it as UTF-8"),
        ("binary.txt", b"six\n\xff\xff", "not_text", "no UTF-8 text: see the byte at position 4"),
        ("nul.txt", b"six\0", "not_text", "a NUL byte at position 3"),
        ("x\0y", None, "file_not_readable", "'x\\x00y'"),
        ("n" * 300, None, "file_not_readable", "File name too long"),
    ],
)
def test_what_is_no_requirements_file_is_refused(project, name, content, code, message):
    os.mkfifo(project / "pipe")
    if content is not None:
        (project / name).write_bytes(content)

    with pytest.raises(InvalidError) as refused:
        read(name, project)

    assert refused.value.code == code
    assert message in refused.value.message


def test_a_byte_order_mark_and_other_line_ends_are_no_content(project):
    (project / "req.txt").write_bytes(b"\xef\xbb\xbfsix\r\nnumpy\r\n")

    assert read("req.txt", project).requirements == "six # req.txt:1\nnumpy # req.txt:2\n"


def test_a_link_out_of_the_repository_is_followed_with_a_warning(project, tmp_path):
    (tmp_path / "shared.txt").write_text("six\n")
    (project / "req.txt").symlink_to("../shared.txt")

    found = read("req.txt", project)

    assert found.requirements == "six # req.txt:1\n"
    (warning,) = found.warnings
    assert warning.startswith("--pip-req: req.txt is a link that leads out of the repository, to ")
    assert warning.endswith("/shared.txt; what is in there goes with the run")


def test_without_a_repository_includes_are_beside_the_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/req.txt").write_text("-r more/base.txt")
    (tmp_path / "deep/more").mkdir()
    (tmp_path / "deep/more/base.txt").write_text("six")

    assert read("deep/req.txt", tmp_path).requirements == "six # deep/more/base.txt:1\n"
