"""The list of what an environment consists of: what counts, what may differ, and what is noticed later."""

import os
from pathlib import Path

import pytest

from spell_builder import contents

PACKAGES = "lib/python3.11/site-packages"
MOVABLE = "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\nprint(1)\n"
FILES = {
    f"{PACKAGES}/alpha.py": "x = 1\n",
    f"{PACKAGES}/alpha/__init__.py": "",
    f"{PACKAGES}/alpha-1.0.dist-info/METADATA": "Name: alpha\n",
    "bin/alpha": MOVABLE,
}


def environment(root, **more):
    for name, text in (FILES | more).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(text))
    (root / "bin" / "alpha").chmod(0o755)
    (root / "bin" / "python").symlink_to("/usr/bin/python3")
    (root / "lib64").symlink_to("lib")
    return root


def digest(root):
    return contents.digest(contents.contents(str(root)))


@pytest.fixture
def made(tmp_path):
    return environment(tmp_path / "first")


def test_the_list_names_every_file_and_link_once_in_order(made):
    paths = [entry.path for entry in contents._parsed(contents.contents(str(made)))]

    assert paths == sorted([*FILES, "bin/python", "lib64"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{PACKAGES}/__pycache__/alpha.cpython-311.pyc", "at 12 o'clock"),
        (f"{PACKAGES}/alpha-1.0.dist-info/RECORD", "alpha.py,sha256=x,6\n"),
        (f"{PACKAGES}/alpha-1.0.dist-info/uv_cache.json", '{"timestamp": 1}'),
        (f"{PACKAGES}/_virtualenv.py", "uv 1"),
        ("pyvenv.cfg", "uv = 0.1\n"),
        ("bin/activate.fish", "/here/or/there"),
        (".lock", ""),
        (".spell-complete", "{}"),
        ("bin/alpha", "#!/somewhere/else/bin/python\nprint(1)\n"),
        ("bin/alpha", MOVABLE.replace("python", "python3")),
    ],
)
def test_what_may_differ_between_two_right_builds_does_not_count(made, tmp_path, name, text):
    assert digest(environment(tmp_path / "second", **{name: text})) == digest(made)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{PACKAGES}/alpha.py", "x = 2\n"),
        (f"{PACKAGES}/empty.py", ""),
        (f"{PACKAGES}/alpha/RECORD", "a file of a package"),
        (f"{PACKAGES}/alpha/pyvenv.cfg", "a file of a package"),
        (f"{PACKAGES}/evil.pth", "import evil"),
        (f"{PACKAGES}/stray.pyc", "byte code without a source"),
        ("share/data\udcff", "a name that is no text"),
        ("share/two\nlines", ""),
        ("bin/alpha", MOVABLE.replace("print(1)", "print(2)")),
    ],
)
def test_what_a_run_could_notice_counts(made, tmp_path, name, text):
    assert digest(environment(tmp_path / "second", **{name: text})) != digest(made)


def test_whether_a_file_may_be_executed_and_where_a_link_leads_count(made):
    before = digest(made)
    module = made / PACKAGES / "alpha.py"

    module.chmod(0o400)
    unwritable = digest(made)
    module.chmod(0o500)
    executable = digest(made)
    module.chmod(0o644)
    (made / "bin" / "python").unlink()
    (made / "bin" / "python").symlink_to("/usr/bin/python2")
    elsewhere = digest(made)

    assert unwritable == before
    assert len({before, executable, elsewhere}) == 3


def test_a_pipe_is_named_and_not_waited_for(made):
    before = digest(made)

    os.mkfifo(made / "share")

    assert digest(made) != before


def test_nothing_differs_from_its_own_list(made):
    listed = contents.contents(str(made))

    assert contents.differences(str(made), listed, 1 << 20) == (
        [],
        sum(map(len, FILES.values())) - len(MOVABLE) + 9,
    )
    assert contents.differences(str(made), listed, 0) == ([], 0)


@pytest.mark.parametrize(
    ("bytes_max", "problems"), [(1 << 20, [f"{PACKAGES}/alpha.py has changed"]), (0, [])]
)
def test_a_content_of_equal_size_is_noticed_as_far_as_it_is_read(made, bytes_max, problems):
    listed = contents.contents(str(made))
    (made / PACKAGES / "alpha.py").write_text("x = 2\n")

    found, _ = contents.differences(str(made), listed, bytes_max)

    assert found == problems


def test_what_was_added_removed_or_resized_is_noticed_without_reading(made):
    listed = contents.contents(str(made))
    (made / PACKAGES / "alpha.py").write_text("x = 10\n")
    (made / PACKAGES / "more.py").touch()
    (made / "lib64").unlink()

    found, spent = contents.differences(str(made), listed, 0)

    assert found == ["lib64 is gone", f"{PACKAGES}/more.py was added", f"{PACKAGES}/alpha.py has changed"]
    assert spent == 0


def test_a_link_to_a_directory_is_not_entered(made, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    (made / "share").symlink_to(tmp_path / "outside")

    paths = [entry.path for entry in contents._parsed(contents.contents(str(made)))]

    assert "share" in paths
    assert not [path for path in paths if Path(path).name == "secret"]
