"""An environment from elsewhere runs only with the Python that it was built for; one sentence says what is wrong."""

import os
import platform
import sys
import sysconfig

import pytest

from spell_proto.environments import Python
from spell_runner.errors import AttemptError
from spell_runner.interpreters import Interpreters

HERE = Python(
    path=os.path.realpath(sys.executable),
    version=f"CPython {platform.python_version()}",
    platform=sysconfig.get_platform(),
    libc=" ".join(platform.libc_ver()),
)


def other(**changed):
    return HERE.model_copy(update=changed)


@pytest.mark.parametrize("wanted", [None, HERE, other(libc="glibc 2.2")])
async def test_the_same_python_is_fine(wanted):
    await Interpreters().check(wanted)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (other(path="/nowhere/python3.11"), "in /nowhere/python3.11, which is not there on this machine"),
        (other(version="CPython 3.11.99"), f"which is CPython {platform.python_version()}"),
        (other(platform="linux-riscv64"), "was built for CPython .* \\(linux-riscv64\\)"),
        (other(libc="glibc 99.1"), "was built with glibc 99.1, and this machine has glibc"),
        (other(libc="musl 1.2"), "was built with musl 1.2, and this machine has glibc"),
        (other(path="/bin/false"), "which is not there on this machine"),
    ],
)
async def test_another_python_is_refused_by_name(wanted, problem):
    with pytest.raises(AttemptError, match=problem) as refused:
        await Interpreters().check(wanted)

    assert refused.value.reason == "build_failed"
