"""Code that tests make up, as real objects of git, and the packs of it that storage would send."""

import asyncio
import hashlib
import json
import os
import subprocess
import zlib
from pathlib import Path
from typing import Any

WHO = b"A U Thor <author@example.org> 1700000000 +0000"
Files = dict[str | bytes, bytes | tuple[str, bytes]]


class Shelf:
    """A bare repository whose objects are written one by one, so that no rule of git keeps a hostile one out."""

    def __init__(self, path: Path, kind: str = "sha1") -> None:
        self.path = path
        self.tags: dict[str, str] = {}
        self.shallow: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self._hash = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}[kind]
        arguments = ("--quiet", "--bare", "--template=", f"--object-format={kind}")
        subprocess.run(["git", "init", *arguments, path], check=True)

    def put(self, kind: str, data: bytes) -> str:
        whole = f"{kind} {len(data)}\0".encode() + data
        name = self._hash(whole).hexdigest()
        place = self.path / "objects" / name[:2] / name[2:]
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            place.write_bytes(zlib.compress(whole, 1))
        return name

    def tree(self, files: Files) -> str:
        """A tree of path -> content, or (mode, content); of a submodule, the content is its commit."""
        below: dict[bytes, Any] = {}
        for path, content in files.items():
            raw = path if isinstance(path, bytes) else os.fsencode(path)
            *parents, name = raw.split(b"/")
            at = below
            for part in parents:
                at = at.setdefault(part, {})
            at[name] = content if isinstance(content, tuple) else ("100644", content)
        return self._tree(below)

    def _tree(self, below: dict[bytes, Any]) -> str:
        entries = []
        for name, what in below.items():
            if isinstance(what, dict):
                entries.append((name + b"/", "40000", name, self._tree(what)))
            elif what[0] == "160000":
                entries.append((name, what[0], name, what[1].decode()))
            else:
                entries.append((name, what[0], name, self.put("blob", what[1])))
        return self.raw_tree([entry[1:] for entry in sorted(entries)])

    def raw_tree(self, entries: list[tuple[str, bytes, str]]) -> str:
        """A tree of exactly these entries, in this order."""
        lines = [mode.encode() + b" " + name + b"\0" + bytes.fromhex(what) for mode, name, what in entries]
        return self.put("tree", b"".join(lines))

    def commit(self, tree: str, *parents: str, message: str = "a commit") -> str:
        lines = [f"tree {tree}".encode(), *(f"parent {parent}".encode() for parent in parents)]
        lines += [b"author " + WHO, b"committer " + WHO, b"", message.encode(), b""]
        return self.put("commit", b"\n".join(lines))

    def tag(self, name: str, commit: str) -> None:
        about = f"object {commit}\ntype commit\ntag {name}\ntagger ".encode() + WHO + b"\n\na tag\n"
        self.tags[name] = self.put("tag", about)

    def code(self, files: Files, *parents: str, root: str = "repo", cwd: str = ".") -> dict[str, Any]:
        """A commit of `files`, as the spec of a run names it."""
        tree = self.tree(files)
        return code(self.commit(tree, *parents), tree, root, cwd)

    async def pack(self, body: bytes) -> bytes | None:
        """What storage answers to a request for a pack; None when it has no such commit."""
        asked = json.loads(body)
        self.asked.append(asked)
        known = await self._git("cat-file", "--batch-check", given="\n".join(asked["want"] + asked["have"]))
        there = {line.split()[0] for line in known.decode().splitlines() if not line.endswith(" missing")}
        if not set(asked["want"]) <= there:
            return None
        revisions = asked["want"] + sorted(self.tags.values())
        revisions += [f"^{have}" for have in asked["have"] if have in there]
        (self.path / "shallow").write_text("".join(f"{cut}\n" for cut in self.shallow))
        arguments = ("pack-objects", "--revs", "--thin", "--stdout", "--delta-base-offset", "--quiet")
        pack = await self._git(*arguments, given="\n".join(revisions))
        head = {"tags": sorted(self.tags.items()), "shallow": sorted(self.shallow)}
        return json.dumps(head).encode() + b"\n" + pack

    async def _git(self, *arguments: str, given: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            "git", f"--git-dir={self.path}", *arguments, stdin=-1, stdout=-1
        )
        printed, _ = await process.communicate(f"{given}\n".encode())
        return printed


def code(commit: str, tree: str, root: str = "repo", cwd: str = ".") -> dict[str, Any]:
    return {
        "repository_id": 1,
        "repository": root,
        "commit": commit,
        "tree": tree,
        "root_directory": root,
        "cwd": cwd,
    }
