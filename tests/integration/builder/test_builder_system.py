"""System packages over this machine: from the real index of its distribution, and nothing of it is changed."""

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spell_builder.overlays import LAYER
from spell_proto.errors import ConflictError, NotFoundError

ABLE = bool(shutil.which("bwrap") and shutil.which("apt-get"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not ABLE, reason="system packages need bubblewrap and apt on this machine"),
]


def lacking() -> str:
    """A small package with a program of its name that this machine does not have."""
    return next(name for name in ("hello", "figlet", "sl", "toilet") if not shutil.which(name))


@pytest.fixture(autouse=True)
async def _lists(builder, lists):
    """The lists of the index, which are large, are fetched once."""
    shutil.copytree(lists, builder.data / "apt-lists", symlinks=True, dirs_exist_ok=True)
    yield
    shutil.copytree(builder.data / "apt-lists", lists, symlinks=True, dirs_exist_ok=True)


@pytest.fixture(name="lists", scope="module")
def _kept(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lists")


#: Resolves and installs a package, and looks for its program with the layer in sight.
BY_ONE_WHO_IS_NOT_ROOT = """
import asyncio, os, subprocess, sys
from pathlib import Path
from spell_builder.system import System

async def main(data, name):
    def say(*_): pass
    system = System(Path(data), {})
    if problem := await system.problem():
        return print("unable", problem, sep="\\n")
    packages = await system.resolve([name], say)
    new = Path(data, "layer")
    with open(new / "lock", "w") as lock:
        await system.install(new, packages, say, lock.fileno())
    script = f"ls /usr/bin/{name} /usr/games/{name} 2>/dev/null | grep -q . && echo shown"
    async with system.shown(new, ["sh", "-c", script]) as words:
        print(subprocess.run(words, capture_output=True, text=True).stdout.strip())

asyncio.run(main(*sys.argv[1:]))
"""


def machine() -> str:
    """A digest of everything that packages change, but for what other programs write all the time."""
    found = hashlib.sha256()
    for part in ("/usr", "/etc", "/opt", "/var/lib/dpkg", "/var/cache/debconf", "/var/lib/apt"):
        for folder, names, files in os.walk(part):
            names[:] = sorted(name for name in names if name != "__pycache__")
            for name in sorted([*names, *files]):
                with contextlib.suppress(FileNotFoundError):
                    shape = os.lstat(f"{folder}/{name}")
                    stamp = (shape.st_mode, shape.st_uid, shape.st_ino)
                    if name in files:
                        stamp += (shape.st_size, shape.st_mtime_ns)
                    found.update(f"{folder}/{name} {stamp}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


async def test_a_package_is_in_the_layer_of_its_environment_and_not_on_the_machine(builder):
    name, before = lacking(), machine()
    answer = await builder.ensure(apt=[name])
    again = await builder.ensure(apt=[name])
    environment = Path(answer.ready["path"])

    assert list((environment / LAYER).glob(f"usr/*/{name}")), list((environment / LAYER).rglob("*"))[:20]
    assert f"\nPackage: {name}\n" in (environment / LAYER / "var/lib/dpkg/status").read_text()
    assert not (environment / LAYER / "usr/sbin/policy-rc.d").exists()
    assert not list(builder.data.glob("environments/*/*-room"))
    assert subprocess.check_output([environment / "bin/python", "-c", "print(1)"]) == b"1\n"
    assert again.ready == {**answer.ready, "cached": True}
    assert machine() == before


async def test_different_packages_of_pip_share_one_layer_which_stays_as_long_as_they_do(
    builder, index, active
):
    name = lacking()
    index.add("alpha", "1.0")
    index.add("beta", "1.0")
    one = await builder.ensure("alpha", apt=[name], run_id=1)
    two = await builder.ensure("beta", apt=[name], run_id=2)
    layers = {os.path.realpath(Path(each.ready["path"]) / LAYER) for each in (one, two)}
    (below,) = (Path(layer).parent.name for layer in layers)

    assert f"Setting up {name}" in " ".join(one.lines)
    assert f"Setting up {name}" not in " ".join(two.lines)
    assert below not in {one.ready["key"], two.ready["key"]}
    with pytest.raises(ConflictError, match="is a layer of others"):
        await builder.call("DELETE", f"/environments/{below}")
    removed = await builder.call("POST", "/environments/collect?everything=1")
    assert {one.ready["key"], two.ready["key"], below} <= set(removed["keys"])


async def test_a_layer_that_was_damaged_is_built_again_for_who_stands_on_it(builder, index):
    name = lacking()
    index.add("alpha", "1.0")
    builder.environment["SPELL_ENVIRONMENT_CHECK_SHARE"] = "1000"
    await builder.end()
    await builder.start()
    one = await builder.ensure("alpha", apt=[name])
    (program,) = (Path(one.ready["path"]) / LAYER).glob(f"usr/*/{name}")
    program.chmod(0o755)
    program.write_bytes(b"broken")

    again = await builder.ensure("alpha", apt=[name])

    assert "is damaged" in " ".join(again.lines)
    (program,) = (Path(again.ready["path"]) / LAYER).glob(f"usr/*/{name}")
    assert program.read_bytes() != b"broken"


async def test_what_packages_made_outside_usr_is_looked_at_too(builder):
    name = next(name for name in ("figlet", "toilet") if not shutil.which(name))
    builder.environment["SPELL_ENVIRONMENT_CHECK_SHARE"] = "1000"
    await builder.end()
    await builder.start()
    one = await builder.ensure(apt=[name])
    link = Path(one.ready["path"]) / LAYER / "etc/alternatives/figlet"
    leads = link.readlink()
    link.parent.chmod(0o755)
    link.unlink()
    link.symlink_to("/usr/bin/false")

    again = await builder.ensure(apt=[name])
    once_more = await builder.ensure(apt=[name])

    assert "is damaged (what its system packages made in etc and var has changed)" in " ".join(again.lines)
    assert link.readlink() == leads
    assert once_more.ready["cached"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["no-such-package-of-debian"], "apt: unable to locate package no-such-package-of-debian"),
        (["bash==1.0"], "apt: there is no version of bash that is ==1.0; there is: "),
    ],
)
async def test_what_the_index_does_not_have_is_named(builder, asked, sentence):
    assert (await builder.ensure(apt=asked)).failure.startswith(sentence)


async def test_what_the_machine_has_already_needs_no_layer(builder):
    answer = await builder.ensure(apt=["base-passwd"])

    assert "This machine has base-passwd already" in answer.lines
    assert not os.path.lexists(Path(answer.ready["path"]) / LAYER)


@contextlib.contextmanager
def mounted_by_root():
    """Something is mounted where nobody else may look."""
    if os.geteuid():
        yield
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="sp") as directory:
        (at := Path(directory, "at")).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", at], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", at], check=True)


async def test_one_who_is_not_root_gets_a_layer_too_and_compiles_with_it_in_sight():
    user = pwd.getpwnam("nobody")
    become = (
        ()
        if os.geteuid()
        else ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    )
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="sp") as directory:
        if become:
            os.chown(directory, user.pw_uid, user.pw_gid)
        Path(directory, "layer").mkdir(mode=0o777)
        Path(directory, "layer").chmod(0o777)
        words = [*become, sys.executable, "-c", BY_ONE_WHO_IS_NOT_ROOT, directory, lacking()]
        if (
            become
            and subprocess.run(
                [*become, sys.executable, "-c", ""], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("another user cannot run our Python here")
        with mounted_by_root():
            done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
        workspace = done.stdout.splitlines()

    if workspace[:1] == ["unable"]:
        pytest.skip(f"one who is not root mounts no overlays here: {workspace[1]}")
    assert workspace[-1:] == ["shown"], (workspace, done.stderr[-2000:])


@pytest.mark.parametrize("name", ["base-passwd", lacking()])
async def test_what_was_made_for_another_state_of_the_machine_is_not_used(builder, tmp_path, name):
    group = tmp_path / "group"
    group.write_bytes(Path("/etc/group").read_bytes())
    enter = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"', str(group))
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the machine cannot be made another one here: mount namespaces are forbidden")
    await builder.end()
    builder.before = enter
    await builder.start()

    first = await builder.ensure(apt=[name])
    assert (await builder.resolved(apt=(name,)))["key"] == first.ready["key"]
    with group.open("a") as file:
        file.write("more:x:4711:\n")
    with pytest.raises(NotFoundError):
        await builder.resolved(apt=(name,))
    second = await builder.ensure(apt=[name])

    assert second.ready["key"] != first.ready["key"]
    assert (await builder.resolved(apt=(name,)))["key"] == second.ready["key"]


async def test_a_lock_tells_the_system_packages_too(builder):
    name = lacking()
    answer = await builder.ensure(apt=[name])
    lock = (await builder.call("GET", f"/environments/{answer.ready['key']}"))["lock"]

    assert f"# apt: {name}=" in lock
    assert answer.ready["key"] != (await builder.ensure()).ready["key"]
