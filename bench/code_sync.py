"""Code sync with one changed line in a 5,000-file, 50 MB repository, beside a plain `git push` of the same change.

    python bench/code_sync.py [--rounds 7] [--history-gb 1]

Ours is what `spell run` does about code, whole: looking at the work tree, the snapshot, and its push. The peer pushes
a commit that is made already, to the same repository over the same SSH endpoint with the same options, in the same
minute. `spell run --background` as a user types it stands below, Python and all. With --history-gb the first push of
a repository with so much history is measured too.
"""

import argparse
import json
import os
import random
import subprocess
import time
from pathlib import Path

from stack import Stack, median, quantile, running, table, verdict

from spell_cli.push import push, ssh_environment
from spell_cli.repository import Inspection, root_commit
from spell_cli.servers import PushIdentity
from spell_cli.snapshot import taken

FILES = 5_000
FILE_BYTES = 10_000
RATIO_MAX = 1.5
_WHO = {f"GIT_{who}_{what}": "a@b.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(cwd: Path, *words: str, **environ: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=cwd, env=os.environ | _WHO | environ, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(path: Path) -> Path:
    """5,000 files of lines that compress about as code does, in 250 directories."""
    noise = random.Random(1)
    words = ["".join(noise.choices("abcdefghijklmnop", k=noise.randint(2, 9))) for _ in range(3_000)]
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    for number in range(FILES):
        file = path / f"d{number % 25}" / f"e{number % 250}" / f"f{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = ""
        while len(text) < FILE_BYTES:
            text += " ".join(noise.choices(words, k=12)) + "\n"
        file.write_text(text[:FILE_BYTES])
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "5,000 files")
    return path


def grow_history(path: Path, gigabytes: float) -> None:
    """Commits of 32 files of 1 MB that cannot be compressed, each in place of those before."""
    for _ in range(int(gigabytes * 1000 / 32)):
        for number in range(32):
            (path / f"large{number}").write_bytes(os.urandom(1_000_000))
        git(path, "add", ".")
        git(path, "commit", "-q", "-m", "more")


def change_a_line(project: Path, text: str) -> None:
    file = project / "d7" / "e7" / "f7.py"
    lines = file.read_text().splitlines(keepends=True)
    lines[40] = text + "\n"
    file.write_text("".join(lines))


def whole(stack: Stack, project: Path) -> float:
    """`spell run --background`, as a user types it."""
    started = time.perf_counter()
    done = stack.spell("run", "-f", "-b", "true", cwd=project)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stdout + done.stderr
    return seconds


class Remote:
    """Where `spell run` pushes the commits of a project to."""

    def __init__(self, stack: Stack, project: Path) -> None:
        root = git(project, "rev-list", "--max-parents=0", "HEAD")
        body = {"root_commit": root, "name": project.name}
        answer = stack.request(stack.connection(), "PUT", "/api/repositories", body)
        self._url = json.loads(answer.read())["remote_url"]
        client = json.loads((stack.directory / "local" / "client.json").read_text())
        self._identity = PushIdentity(Path(client["identity_file"]), Path(client["known_hosts"]))
        self._directory = stack.directory

    def sync(self, project: Path) -> float:
        """What `spell run` does for the code of a work tree that has changed."""
        started = time.perf_counter()
        repository = Inspection(str(project)).result()
        assert repository is not None
        with taken(repository, self._directory) as snapshot:
            root_commit(repository)
            push(repository, snapshot, self._url, self._identity, self._directory)
            return time.perf_counter() - started

    def plain(self, project: Path) -> float:
        """`git push` of HEAD."""
        head = git(project, "rev-parse", "HEAD")
        environ = ssh_environment(self._identity, self._directory)
        started = time.perf_counter()
        git(project, "push", "-q", self._url, f"{head}:refs/heads/br_{head}", **environ)
        return time.perf_counter() - started


def another(stack: Stack, project: Path, name: str) -> Path:
    """The same project with another root: to the server a repository of its own."""
    path = stack.directory / name
    git(stack.directory, "clone", "-q", str(project), str(path))
    git(path, "filter-branch", "--msg-filter", f"echo {name}", "HEAD", FILTER_BRANCH_SQUELCH_WARNING="1")
    return settled(path)


def settled(project: Path) -> Path:
    """As it is when its owner has had a look: git does not read all files again to find out that they are the same."""
    time.sleep(1.1)
    git(project, "update-index", "--refresh")
    return project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--history-gb", type=float, default=0.0)
    given = parser.parse_args()
    rows = []
    with running() as stack:
        origin = repository(stack.directory / "origin")
        assert stack.spell("run", "-f", "true", cwd=stack.directory).returncode == 0
        ours, peers = another(stack, origin, "ours"), another(stack, origin, "peers")
        rows.append(row("first push", whole(stack, ours), Remote(stack, peers).plain(peers)))
        clone = stack.directory / "clone"
        git(stack.directory, "clone", "-q", str(ours), str(clone))
        settled(clone)
        remote, synced, typed, pushed = Remote(stack, ours), [], [], []
        for number in range(given.rounds):
            change_a_line(ours, f"# ours {number}")
            synced.append(remote.sync(ours))
            change_a_line(ours, f"# typed {number}")
            typed.append(whole(stack, ours))
            change_a_line(clone, f"# plain {number}")
            git(clone, "commit", "-q", "-a", "-m", "change")
            pushed.append(remote.plain(clone))
        rows.append(row("one line changed, p50", median(synced), median(pushed)))
        rows.append(row("one line changed, p95", quantile(synced, 0.95), quantile(pushed, 0.95)))
        rows.append(row("spell run -b with it, p50", median(typed), median(pushed), bound=False))
        if given.history_gb:
            grow_history(origin, given.history_gb)
            ours, peers = another(stack, origin, "ours-large"), another(stack, origin, "peers-large")
            seconds = whole(stack, ours)
            rows.append(
                row(f"{given.history_gb:g} GB of history", seconds, Remote(stack, peers).plain(peers))
            )
    table(f"Code sync, {FILES:,} files, {FILES * FILE_BYTES // 10**6} MB, {given.rounds} rounds", rows)


def row(what: str, seconds: float, peer: float, *, bound: bool = True) -> tuple[str, str, str, str, str]:
    ratio = seconds / peer
    budget = verdict(ratio <= RATIO_MAX, f"<= {RATIO_MAX}x") if bound else ""
    return (what, f"{seconds * 1000:.0f} ms", f"git push {peer * 1000:.0f} ms", f"{ratio:.2f}x", budget)


if __name__ == "__main__":
    main()
