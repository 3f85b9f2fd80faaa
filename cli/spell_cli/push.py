"""Brings a commit to the server: `git push` over SSH, with our own identity and known hosts."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from spell_cli.client import pauses
from spell_cli.errors import CliError, UnreachableError
from spell_cli.progress import Progress
from spell_cli.repository import Repository, Snapshot, plain_environment
from spell_cli.servers import PushIdentity
from spell_cli.snapshot import borrowed

AWAY_SECONDS_MAX = 10.0
CONNECT_SECONDS = 20
#: A connection on which nothing comes is given up after three times as long.
ALIVE_SECONDS = 15
_EMPTY_SSH_CONFIG = "# empty spell ssh config\n"
_GIT_NEEDED = (2, 3)
_SETTINGS = (
    "-c", "push.gpgSign=false",
    "-c", "push.followTags=false",
    "-c", "push.pushOption=",
    "-c", "protocol.ssh.allow=always",
    # Larger files are streamed, not held in memory to look for a small difference.
    "-c", "core.bigFileThreshold=32m",
)  # fmt: skip
_CHANGED_KEY = re.compile(
    r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed|Host key is not trusted"
)
_AWAY = re.compile(
    r"(?P<why>Connection (refused|timed out|reset|closed|lost)|Connection to \S+ closed by remote host"
    r"|No route to host|Network is unreachable|(Timeout, )?server \S+ not responding|not responding to keepalive"
    r"|Could not resolve hostname|Name or service not known|Connect call failed)",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"exceeds maximum allowed size( \((?P<most>[^)]*)\))?")
_KEY_REFUSED = re.compile(r"Permission denied \(publickey|Permission denied for user", re.IGNORECASE)


class _Outcome(NamedTuple):
    returncode: int
    words: list[str]


def push(
    repository: Repository,
    snapshot: Snapshot | None,
    remote_url: str,
    identity: PushIdentity,
    spell_dir: Path,
) -> None:
    """Push the snapshot, or the commit where there is none, as a branch of its own.

    Raises:
        CliError: it did not arrive; git's own words are the detail.
    """
    commit = repository.commit if snapshot is None else snapshot.commit
    command = [
        "git",
        *_SETTINGS,
        # The longest match wins: no setting of the user's sends the code to another place.
        "-c",
        f"url.{remote_url}.insteadOf={remote_url}",
        "-c",
        f"url.{remote_url}.pushInsteadOf={remote_url}",
        "push",
        "--no-verify",
        "--recurse-submodules=no",
        "--follow-tags",
        "--progress",
        remote_url,
        f"{commit}:refs/heads/br_{commit}",
    ]
    environ = plain_environment(os.environ) | ssh_environment(identity, spell_dir)
    deadline = time.monotonic() + AWAY_SECONDS_MAX
    with _objects(repository, snapshot, spell_dir) as objects, Progress("Pushing your code") as progress:
        if objects is not None:
            environ["GIT_OBJECT_DIRECTORY"] = str(objects)
        for pause in pauses():
            outcome = _push(command, repository.directory, environ, progress)
            if outcome.returncode == 0:
                return
            # A server that is just starting again is there in a moment.
            said = "\n".join(outcome.words)
            if not _AWAY.search(said) or _TOO_LARGE.search(said) or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
    raise _failure(outcome.words, remote_url, identity)


def _objects(
    repository: Repository, snapshot: Snapshot | None, spell_dir: Path
) -> AbstractContextManager[Path | None]:
    """Where git writes what it has to: a push from a partial clone fetches what that lacks."""
    if snapshot is not None:
        return contextlib.nullcontext(snapshot.objects)
    if any((repository.objects / "pack").glob("*.promisor")):
        return borrowed(repository, spell_dir)
    return contextlib.nullcontext()


def _push(command: list[str], directory: str, environ: dict[str, str], progress: Progress) -> _Outcome:
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        # Universal newlines: git's progress, which ends in \r, comes line by line too.
        words = []
        for line in process.stderr:
            words.append(line.rstrip())
            progress.update(line.strip())
    return _Outcome(process.returncode, words)


def _failure(words: list[str], remote_url: str, identity: PushIdentity) -> CliError:
    """What a push that failed means, in a sentence."""
    said = "\n".join(words)
    detail = "\n".join(_without_progress(words))
    failed = "Push to Spell remote failed"
    address = urlsplit(remote_url).netloc.rpartition("@")[2]
    if _CHANGED_KEY.search(said):
        return CliError(
            f"{failed}: {address} does not show the host key that is known for it from {identity.known_hosts}, "
            "so it may be somebody else who answers there. Nothing was sent."
        )
    if large := _TOO_LARGE.search(said):
        most = f", at most {large['most']}" if large["most"] else ""
        return CliError(f"{failed}: there is more to push than the server takes at once{most}.")
    if away := _AWAY.search(said):
        return UnreachableError(f"{failed}: {address} does not answer ({away['why'].lower()}).")
    if _KEY_REFUSED.search(said):
        return CliError(
            f"{failed}: {address} does not know the key {identity.identity_file}.",
            detail=detail,
            hint="'spell keys list' shows the keys it knows, 'spell keys generate' makes one for this machine.",
        )
    return CliError(failed + _git_too_old(), detail=detail)


def _git_too_old() -> str:
    needed = ".".join(str(number) for number in _GIT_NEEDED)
    try:
        said = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        said = ""
    found = re.search(r"(\d+)\.(\d+)[.\w]*", said)
    if found is None:
        return f". Please ensure Git version {needed} or newer is installed."
    if (int(found[1]), int(found[2])) < _GIT_NEEDED:
        return f". Git version {needed} or newer is required -- detected Git version: ({found[0]})"
    return ""


def ssh_environment(identity: PushIdentity, spell_dir: Path) -> dict[str, str]:
    """How git reaches SSH: the user's own GIT_SSH_COMMAND; else his GIT_SSH, or ssh, or our small client in its
    place, with our options.
    """
    if os.environ.get("GIT_SSH_COMMAND"):
        return {}
    own = os.environ.get("GIT_SSH")
    ssh = [own or "ssh"] if own or shutil.which("ssh") else [sys.executable, "-P", "-m", "spell_cli.ssh"]
    options = [
        "-F",
        str(_ssh_config(spell_dir)),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        f"IdentityFile={_ssh_quoted(identity.identity_file)}",
        "-o",
        f"UserKnownHostsFile={_ssh_quoted(identity.known_hosts)}",
        "-o",
        "GlobalKnownHostsFile=/dev/null",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        f"ConnectTimeout={CONNECT_SECONDS}",
        "-o",
        f"ServerAliveInterval={ALIVE_SECONDS}",
    ]
    variant = os.environ.get("GIT_SSH_VARIANT") if own else None
    return {"GIT_SSH_COMMAND": shlex.join([*ssh, *options]), "GIT_SSH_VARIANT": variant or "ssh"}


def _ssh_config(spell_dir: Path) -> Path:
    """The file in which a user may set a proxy or a jump host for our pushes; made empty at first."""
    path = spell_dir / "ssh_config"
    if not path.exists():
        spell_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(_EMPTY_SSH_CONFIG)
    return path


def _ssh_quoted(path: Path) -> str:
    """A file name inside `-o`, of which ssh takes several, parted by spaces, and in which it replaces %h and such."""
    text = str(path).replace("%", "%%")
    if not set(text) & set(" \t\"'\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_progress(words: list[str]) -> list[str]:
    """What git said, without the percentages it drew over each other."""
    return [line for line in words if line and "%" not in line.partition(", done")[0]][-20:]
