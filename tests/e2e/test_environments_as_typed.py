"""Environments as a person asks for them, against a whole stack and a package index on this disk."""

import platform
import re
import shutil
from pathlib import Path

import pytest

from support.conda_packages import Channel
from support.packages import Index
from support.standalone import until

pytestmark = pytest.mark.e2e
SHELL = "python -c 'import alpha; print(\"alpha\", alpha.VERSION)'"
SHOW = "import alpha; print('alpha', alpha.VERSION)"


@pytest.fixture(scope="module", name="index")
def _index(tmp_path_factory) -> Index:
    index = Index(tmp_path_factory.mktemp("packages") / "index")
    index.add("alpha", "1.0")
    index.add("beta", "1.0", requires=("alpha<2",))
    return index


@pytest.fixture(scope="module", name="channel")
def _channel(tmp_path_factory) -> Channel:
    channel = Channel(tmp_path_factory.mktemp("conda") / "channel")
    channel.add_python()
    channel.add("gamma", "1.5", conda=True)
    return channel


@pytest.fixture(scope="module", name="settings")
def _settings(index, channel, tmp_path_factory) -> dict[str, str]:
    own = tmp_path_factory.mktemp("frameworks") / "own.toml"
    own.write_text(
        '[frameworks.greek]\nsummary = "Letters"\naliases = ["letters"]\npackages = ["alpha"]\n'
        'note = "alpha 0.1 is gone"\ncommon = false\n'
    )
    return {
        "UV_DEFAULT_INDEX": index.url,
        "SPELL_CONDA_CHANNELS": f"local={channel.url}",
        "SPELL_FRAMEWORKS": str(own),
    }


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    files = {
        "req.txt": "-r base/all.txt\n",
        "base/all.txt": "beta  # what we need\n-c limits.txt\n",
        "base/limits.txt": "alpha<2\n",
    }
    return stack.repository(files, name="project")


def number(result) -> str:
    return re.search(r"Casting spell #(\d+)", result.stdout)[1]


def key_of(stack, run_id: str) -> str:
    return stack.json("env", "explain", run_id)["detail"]["environment"]["key"]


def test_a_requirements_file_with_includes_is_installed(stack, project):
    result = stack.spell("run", "--pip-req", "req.txt", "python", "-c", SHOW, cwd=project)

    assert result.rc == 0, result
    assert "alpha 1.0" in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("six\n-e ..\n", "--pip-req: bad.txt, line 2: -e ..: it is outside of"),
        ("-r ../other.txt\n", "--pip-req: bad.txt, line 1: -r '../other.txt': it is outside of"),
        (
            "alpha\n--extra-index-url https://wheels.example/simple\n",
            "--pip-req: bad.txt, line 2: --extra-index-url: the host 'wheels.example' is not on the operator's list",
        ),
    ],
)
def test_a_line_that_is_not_allowed_is_refused_and_nothing_is_created(stack, project, content, sentence):
    before = len(stack.json("ps", "-n", "500"))
    (project / "bad.txt").write_text(content)
    result = stack.spell("run", "-f", "--pip-req", "bad.txt", "true", cwd=project)
    (project / "bad.txt").unlink()

    assert result.rc == 2, result
    assert sentence in " ".join(result.stderr.split())
    assert len(stack.json("ps", "-n", "500")) == before


def test_a_missing_package_of_a_file_is_told_with_its_line(stack, project):
    (project / "missing.txt").write_text("alpha\n\nnowhere\n")
    result = stack.spell("run", "-f", "--pip-req", "missing.txt", "true", cwd=project)
    (project / "missing.txt").unlink()

    assert result.rc == 70
    assert (
        "pip: there is no package nowhere in the package index (missing.txt, line 3)"
        in result.stdout + result.stderr
    )


def test_a_python_that_is_not_there_is_refused_with_those_that_are(stack, project):
    result = stack.spell("run", "--python", "3.99", "true", cwd=project)
    there = stack.spell("run", "--python", platform.python_version(), "python", "-V", cwd=project)

    assert result.rc == 2, result
    assert "--python: there is no Python 3.99 on this machine. There is: " in result.stderr
    assert platform.python_version() in result.stderr
    assert there.rc == 0, there
    assert f"Python {platform.python_version()}" in there.stdout


def test_a_lock_and_a_rerun_give_what_a_run_had_and_latest_what_there_is_now(stack, project, index):
    program = ("python", "-c", SHOW + "; import os; print(os.environ['WORD'])")
    first = stack.spell("run", "--pip", "alpha", "-e", "WORD=abracadabra", *program, cwd=project)
    index.add("alpha", "2.0")
    lock = stack.spell("env", "lock", number(first))
    (project / "lock.txt").write_text(lock.stdout)

    locked = stack.spell("run", "-f", "--pip-req", "lock.txt", "-e", "WORD=x", *program, cwd=project)
    latest = stack.spell("run", "--latest", "--pip", "alpha", "-e", "WORD=y", *program, cwd=project)
    again = stack.spell("rerun", number(first))
    (project / "lock.txt").unlink()

    assert lock.rc == 0, lock
    assert key_of(stack, number(locked)) == key_of(stack, number(first)) == key_of(stack, number(again))
    assert "alpha 2.0" in latest.stdout.splitlines()
    assert again.rc == 0, again
    assert {"alpha 1.0", "abracadabra"} <= set(again.stdout.splitlines())
    explained = stack.spell("env", "explain", number(latest))
    assert re.search(r"Since Run \d+ +alpha 1\.0 → 2\.0", explained.stdout), explained


def test_a_framework_of_the_operator_is_listed_offered_foretold_and_installed(stack, project):
    listed = stack.spell("frameworks")
    one = stack.spell("frameworks", "letters")
    words = ("run", "--framework", "Letters==1.0", "--pip", "beta")
    plan = stack.spell(*words, "--dry-run", "true", cwd=project)
    result = stack.spell(*words, "python", "-c", SHOW, cwd=project)
    told = stack.spell("info", number(result))
    explained = stack.spell("env", "explain", number(result))

    assert re.search(r"^greek +letters +Letters$", listed.stdout, re.MULTILINE), listed
    assert re.search(r"^caffe .*\(Docker\)$", listed.stdout, re.MULTILINE), listed
    assert re.search(r"^Note +alpha 0\.1 is gone$", one.stdout, re.MULTILINE), one
    assert re.search(r"^Framework +letters==1\.0$", plan.stdout, re.MULTILINE), plan
    assert result.rc == 0, result
    assert "alpha 1.0" in result.stdout.splitlines()
    for shown in (told, explained):
        assert re.search(r"^Framework +letters==1\.0$", shown.stdout, re.MULTILINE), shown


def test_a_framework_that_is_not_there_is_refused_with_those_that_are_and_the_nearest(stack, project):
    result = stack.spell("run", "--framework", "greak", "true", cwd=project)

    assert result.rc == 2, result
    assert "--framework: there is no framework greak. There is: default, " in " ".join(result.stderr.split())
    assert "Did you mean greek?" in result.stderr


@pytest.mark.skipif(
    not (shutil.which("bwrap") and shutil.which("apt-get")), reason="no bubblewrap or no apt on this machine"
)
def test_system_packages_are_there_for_the_run_and_not_on_the_machine(stack, project):
    name = next(each for each in ("hello", "ed", "dc", "bc") if not shutil.which(each))
    result = stack.spell(
        "run", "--apt", name, "--pip", "alpha==1.0", f"command -v {name}; {SHELL}", cwd=project
    )

    assert result.rc == 0, result
    assert re.search(rf"^/usr/(bin|games)/{name}$", result.stdout, re.MULTILINE), result
    assert "alpha 1.0" in result.stdout.splitlines()
    assert shutil.which(name) is None
    assert f"# apt: {name}=" in stack.spell("env", "lock", number(result)).stdout


@pytest.mark.skipif(
    not (shutil.which("bwrap") and shutil.which("apt-get")), reason="no bubblewrap or no apt on this machine"
)
def test_a_program_that_its_package_calls_a_game_is_found_by_its_name(stack, project):
    name = next(each for each in ("rolldice", "sl", "ninvaders") if not Path(f"/usr/games/{each}").exists())

    assert stack.spell("run", "--apt", name, f"command -v {name}", cwd=project).rc == 0


def test_a_dry_run_says_what_would_be_and_creates_nothing(stack, project):
    before = len(stack.json("ps", "-n", "500"))
    new = stack.spell("run", "--dry-run", "--pip", "beta", "python", "x.py", cwd=project)
    after = len(stack.json("ps", "-n", "500"))
    stack.spell("run", "--pip", "beta", "true", cwd=project)
    known = stack.spell("run", "--dry-run", "--pip", "beta", "python", "x.py", cwd=project)

    assert (new.rc, known.rc) == (0, 0), (new, known)
    assert after == before
    assert re.search(r"^Environment +resolved and built$", new.stdout, re.MULTILINE), new
    assert re.search(r"^Machine Type +CPU: 2 of 2 slots free(, .*)?$", new.stdout, re.MULTILINE), new
    assert re.search(r"^Environment +[0-9a-f]{12}, reused: nothing is built$", known.stdout, re.MULTILINE), (
        known
    )
    assert "beta==1.0" in known.stdout


def test_environments_are_listed_and_removed_but_for_those_in_use(stack, project):
    run = stack.spell("run", "-b", "--pip", "beta", "sleep", "600", cwd=project)
    run_id = number(run)
    key = _key_once_known(stack, run_id)

    refused = stack.spell("env", "rm", key)
    stack.spell("kill", run_id)
    stack.spell("wait", run_id)
    removed = stack.spell("env", "rm", key[:12])
    listed = stack.json("env", "list")
    collected = stack.spell("env", "gc", "--all")

    assert refused.rc == 1, refused
    assert f"is used by run {run_id}; stop it first" in refused.stderr
    assert removed.rc == 0, removed
    assert key not in [each["key"] for each in listed["environments"]]
    assert collected.rc == 0, collected
    assert stack.spell("run", "--pip", "beta", "true", cwd=project).rc == 0


def _key_once_known(stack, run_id: str) -> str:
    found: list[str] = []

    def known() -> bool:
        result = stack.spell("env", "explain", run_id, "--json")
        if result.rc == 0:
            found.append(re.search(r'"key": "([0-9a-f]{64})"', result.stdout)[1])
        return bool(found)

    until(known, 30, lambda: f"run {run_id} has no environment")
    return found[0]


def test_an_environment_that_was_damaged_on_the_disk_is_built_again(stack, project):
    first = stack.spell("run", "--pip", "beta", "python", "-c", SHOW, cwd=project)
    environment = stack.data / "builder" / "environments" / key_of(stack, number(first))
    module = next(environment.glob("lib/python*/site-packages/alpha.py"))
    module.chmod(0o644)
    module.write_text("VERSION = 'evil'\n")

    again = stack.spell("run", "-v", "--pip", "beta", "python", "-c", SHOW, cwd=project)

    assert "alpha 1.0" in again.stdout.splitlines(), again
    assert key_of(stack, number(again)) == environment.name


SHOW_CONDA = (
    "import os, sys, gamma; print('gamma', gamma.VERSION, os.environ['CONDA_DEFAULT_ENV'], "
    "os.environ['CONDA_PREFIX'] == sys.prefix, 'VIRTUAL_ENV' in os.environ)"
)


def test_a_conda_file_gives_python_packages_and_what_pip_adds(stack, project):
    (project / "env.yml").write_text(
        "name: mine\nprefix: /x\nchannels: [local]\ndependencies:\n- gamma\n- pip:\n  - alpha==1.0\n"
    )
    result = stack.spell("run", "-f", "--conda-file", "env.yml", "python", "-c", SHOW_CONDA, cwd=project)
    alpha = stack.spell("run", "-f", "--conda-file", "env.yml", "python", "-c", SHOW, cwd=project)
    lock = stack.spell("env", "lock", number(result))
    (project / "env.yml").write_text(lock.stdout)
    locked = stack.spell("run", "-f", "--conda-file", "env.yml", "gamma", cwd=project)
    again = stack.spell("rerun", number(result))
    explained = stack.spell("env", "explain", number(result))
    shown = stack.spell("info", number(result))
    (project / "env.yml").unlink()

    assert result.rc == 0, result
    assert "gamma 1.5 spell True False" in result.stdout.splitlines()
    assert "the environment is called 'spell' in the run, not 'mine'" in " ".join(result.stderr.split())
    assert "'prefix' is ignored" in result.stderr
    assert "alpha 1.0" in alpha.stdout.splitlines(), alpha
    assert "gamma 1.5" in locked.stdout.splitlines(), locked
    assert "gamma 1.5 spell True False" in again.stdout.splitlines(), again
    assert key_of(stack, number(locked)) == key_of(stack, number(result)) == key_of(stack, number(again))
    assert "gamma 1.5 0" in explained.stdout
    assert "alpha==1.0 (pip)" in explained.stdout
    assert re.search(r"^Conda Env File +gamma$", shown.stdout, re.MULTILINE), shown


@pytest.mark.parametrize(
    ("content", "more", "sentence"),
    [
        ("dependencies:\n\t- a\n", (), "--conda-file: bad.yml, line 2, column 1: there is a tab"),
        ("channels: [other]\ndependencies: [a]\n", (), "the channel 'other' is not on the operator's list"),
        (
            "dependencies: [a]\n",
            ("--pip", "six"),
            "--pip or --pip-req cannot be specified when using a conda",
        ),
    ],
)
def test_a_conda_file_that_cannot_be_used_is_refused_in_one_sentence(stack, project, content, more, sentence):
    (project / "bad.yml").write_text(content)
    result = stack.spell("run", "-f", "--conda-file", "bad.yml", *more, "true", cwd=project)
    (project / "bad.yml").unlink()

    assert result.rc == 2, result
    assert sentence in " ".join(result.stderr.split())
