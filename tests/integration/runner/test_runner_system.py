"""A layer of system packages over this machine, as a command sees it."""

import os
import stat
from pathlib import Path

import pytest

from integration.runner import shims

pytestmark = pytest.mark.integration
KINDS = [
    "unshare",
    pytest.param(
        "bubblewrap", marks=pytest.mark.skipif(not shims.BWRAP, reason="bubblewrap is not installed")
    ),
]


@pytest.fixture(name="layer")
def _layer(tmp_path: Path) -> Path:
    """What a package would change, by hand."""
    layer = tmp_path / "a, layer: of its own"
    files = {
        "usr/bin/spell-new": "#!/bin/sh\necho new program\n",
        "usr/share/spell-new/data": "new data\n",
        "etc/debian_version": "of the layer\n",
        "etc/spell-new/settings": "new settings\n",
        "var/lib/spell-new/state": "new state\n",
        "var/lib/dpkg/spell-new": "noted\n",
    }
    for name, text in files.items():
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        (layer / name).write_text(text)
    (layer / "usr/bin/spell-new").chmod(0o755)
    return layer


@pytest.fixture(name="yard", scope="module")
def _yard():
    with shims.yard() as yard:
        yield yard


COMMAND = (
    "spell-new; cat /usr/share/spell-new/data /etc/debian_version /etc/spell-new/settings /var/lib/spell-new/state "
    "/var/lib/dpkg/spell-new; head -c 8 /var/lib/dpkg/status; echo; test -e /etc/passwd && ls -d /var/lib/apt; "
    "touch /usr/x /etc/x /var/lib/x 2>/dev/null || echo read-only; echo mine > /spell/x; cat /spell/x"
)


@pytest.mark.parametrize("isolation", KINDS)
def test_a_command_sees_the_machine_with_the_layer_over_it(yard, layer, isolation):
    started = yard.start(COMMAND, isolation, overlay=True, system=str(layer))
    claim = started.until_over()

    assert started.output().decode().splitlines() == [
        "new program",
        "new data",
        "of the layer",
        "new settings",
        "new state",
        "noted",
        "Package:",
        "/var/lib/apt",
        "read-only",
        "mine",
    ], (claim, started.records())
    assert not Path("/usr/bin/spell-new").exists()
    assert not Path("/var/lib/spell-new").exists()


@pytest.mark.parametrize("isolation", KINDS)
def test_what_packages_have_removed_is_not_seen(yard, layer, isolation):
    gone = layer / "etc/hostname"
    try:
        os.mknod(gone, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("only root may make what overlayfs means by a file that is gone")
    started = yard.start("test -e /etc/hostname || echo gone", isolation, overlay=True, system=str(layer))
    started.until_over()

    assert started.output() == b"gone\n"
