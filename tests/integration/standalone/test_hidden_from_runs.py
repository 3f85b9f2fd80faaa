"""What a run must not find: the keys, tokens and settings of whoever asked for it."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from support.standalone import Stack

pytestmark = pytest.mark.integration

SECRETS = ("spell.pem", "config", "local/settings.json", "local/client.json")


@pytest.fixture(params=["bubblewrap", "unshare"])
def stack(request):
    # Not below /tmp, which is a run's own anyway.
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    made = Stack(directory, {"SPELL_ISOLATION": request.param})
    try:
        result = made.manage("up")
        if result.rc != 0 and "SPELL_ISOLATION" in result.stderr + made.logs():
            pytest.skip(f"{request.param} does not work on this machine")
        assert result.rc == 0, f"{result}\n{made.logs()}"
        yield made
    finally:
        made.clean_up()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_run_finds_its_environment_and_no_secret_of_its_user(stack):
    descriptor = os.open(stack.directory / "config", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b"include_uncommitted: false\n")
    os.close(descriptor)
    assert all((stack.directory / name).exists() for name in SECRETS)
    looks = "".join(f"cat {stack.directory / name} && echo found; " for name in SECRETS)

    result = stack.spell("run", "--force", f"{looks} python -c 'import sys; print(sys.prefix)'")

    assert result.rc == 0, f"{result}\n{stack.logs()}"
    assert "found" not in result.stdout.splitlines(), result
    assert result.stderr.count("No such file or directory") == len(SECRETS), result
    assert f"{stack.data}/builder/" in result.stdout, result
