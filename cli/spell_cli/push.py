"""Brings a commit to the server: `git push` over SSH, with our own identity and known hosts."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from spell_cli.errors import CliError
from spell_cli.progress import Progress
from spell_cli.repository import Repository, plain_environment
from spell_cli.servers import PushIdentity

_EMPTY_SSH_CONFIG = "# empty spell ssh config\n"


def push(repository: Repository, remote_url: str, identity: PushIdentity, spell_dir: Path) -> None:
    """Push HEAD's commit as a branch of its own.

    Raises:
        CliError: it did not arrive; git's own words are the detail.
    """
    command = [
        "git",
        "-c",
        "push.gpgSign=false",
        "-c",
        "push.followTags=false",
        "push",
        "--no-verify",
        "--recurse-submodules=no",
        "--progress",
        remote_url,
        f"{repository.commit}:refs/heads/br_{repository.commit}",
    ]
    with (
        Progress("Pushing your code") as progress,
        subprocess.Popen(
            command,
            cwd=repository.toplevel,
            env=plain_environment(os.environ) | ssh_environment(identity, spell_dir),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stderr is not None
        # Universal newlines: git's progress, which ends in \r, comes line by line too.
        words = []
        for line in process.stderr:
            words.append(line.rstrip())
            progress.update(line.strip())
    if process.returncode != 0:
        raise CliError("Push to Spell remote failed", detail="\n".join(_without_progress(words)))


def ssh_environment(identity: PushIdentity, spell_dir: Path) -> dict[str, str]:
    """How git reaches SSH: the user's own GIT_SSH_COMMAND, else ssh, else our small client in its place."""
    if os.environ.get("GIT_SSH_COMMAND"):
        return {}
    ssh = ["ssh"] if shutil.which("ssh") else [sys.executable, "-P", "-m", "spell_cli.ssh"]
    options = [
        "-F",
        str(_ssh_config(spell_dir)),
        "-o",
        "IdentitiesOnly=yes",
        "-i",
        str(identity.identity_file),
        "-o",
        f"UserKnownHostsFile={_ssh_quoted(identity.known_hosts)}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
    ]
    return {"GIT_SSH_COMMAND": shlex.join([*ssh, *options]), "GIT_SSH_VARIANT": "ssh"}


def _ssh_config(spell_dir: Path) -> Path:
    """The file in which a user may set a proxy or a jump host for our pushes; made empty at first."""
    path = spell_dir / "ssh_config"
    if not path.exists():
        spell_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(_EMPTY_SSH_CONFIG)
    return path


def _ssh_quoted(path: Path) -> str:
    """A file name inside `-o`: ssh takes several, parted by spaces, and quotes around one that holds spaces."""
    return f'"{path}"' if " " in str(path) else str(path)


def _without_progress(words: list[str]) -> list[str]:
    """What git said, without the percentages it drew over each other."""
    return [line for line in words if line and "%" not in line.partition(", done")[0]][-20:]
