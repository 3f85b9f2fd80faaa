"""Storage without a service around it, for tests of housekeeping: tables, repositories, histories of any shape."""

import contextlib
import itertools
import random
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from integration.storage.git_people import git_in
from spell_proto import database
from spell_proto.errors import NotFoundError
from spell_storage import git
from spell_storage.code import Code
from spell_storage.housekeeping import Housekeeping
from support.git_https import ENVIRONMENT

_owners = itertools.count(11_000)
DAY = 24 * 3600.0


@dataclass
class Room:
    """Storage without a service around it: tables, repositories, and an owner with one of them."""

    pool: object
    repositories: git.Repositories
    data: Path
    owner_id: int
    repository_id: int = 0

    @property
    def path(self) -> Path:
        return self.repositories.path(self.owner_id, self.repository_id)

    @property
    def code(self) -> Code:
        """With an empty memory."""
        return Code(self.pool, self.repositories, "x:1", kept_seconds=DAY)

    async def has(self, name):
        try:
            return (await self.code.commit(self.owner_id, name)).commit == name
        except NotFoundError:
            return False

    async def push(self, names):
        refs = "".join(f"create refs/heads/br_{name} {name}\n" for name in names)
        git_in(self.path, "update-ref", "--stdin", given=refs.encode())
        await self.code.pushed(self.owner_id, self.repository_id, names)

    async def age(self, names):
        """Two days pass for these commits."""
        await self.pool.execute(
            "UPDATE commits SET used_at = now() - interval '2 days' WHERE owner_id = $1 AND commit = ANY($2)",
            self.owner_id,
            list(names),
        )

    async def age_repository(self):
        await self.pool.execute(
            "UPDATE repositories SET updated_at = now() - interval '2 days' WHERE owner_id = $1",
            self.owner_id,
        )

    async def keep_house(self, named=()):
        """One pass, with runs that name these commits."""

        async def in_use(_owner_id, commits):
            return set(commits) & set(named)

        return await self.housekeeping(in_use).run_once(datetime.now(UTC))

    def housekeeping(self, in_use):
        return Housekeeping(self.pool, self.repositories, in_use, DAY)

    def is_whole(self, name):
        return (
            subprocess.run(
                ["git", f"--git-dir={self.path}", "rev-list", "--objects", "--quiet", name],
                env=ENVIRONMENT,
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )

    def objects(self):
        return git_in(self.path, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()

    def needed(self):
        lines = git_in(self.path, "rev-list", "--objects", "--all").splitlines()
        tags = git_in(self.path, "for-each-ref", "--format=%(objectname)").split()
        return {line.split(b" ")[0] for line in lines} | set(tags)

    def history(self, commits, seed):
        """Commits with random parents and files, as loose objects and packs; returns their names, oldest first."""
        chance = random.Random(seed)
        stream = []
        for number in range(1, commits + 1):
            parents = chance.sample(range(1, number), min(number - 1, chance.choice((1, 1, 1, 2, 0))))
            stream.append(
                f"commit refs/heads/c{number}\nmark :{number}\ncommitter x <x@y> {number} +0000\ndata 1\nx\n"
            )
            stream += [
                f"{'from' if place == 0 else 'merge'} :{parent}\n" for place, parent in enumerate(parents)
            ]
            text = f"{chance.random()}\n" * chance.randrange(1, 200)
            stream.append(
                f"M 100644 inline d{chance.randrange(3)}/f{chance.randrange(8)}\ndata {len(text)}\n{text}\n"
            )
        git_in(self.path, "fast-import", "--quiet", "--force", given="".join(stream).encode())
        names = [
            git_in(self.path, "rev-parse", f"refs/heads/c{number}").decode().strip()
            for number in range(1, commits + 1)
        ]
        gone = "".join(f"delete refs/heads/c{number}\n" for number in range(1, commits + 1))
        git_in(self.path, "update-ref", "--stdin", given=gone.encode())
        return names


@contextlib.asynccontextmanager
async def a_room(postgres, data):
    repositories = git.Repositories(data)
    repositories.prepare()
    async with database.pool(postgres.url("storage"), "storage") as pool:
        await database.migrate(pool, "storage", "spell_storage")
        room = Room(pool, repositories, data, next(_owners))
        made = await room.code.put_repository(room.owner_id, f"{room.owner_id:040x}", "project")
        room.repository_id = made.id
        yield room
        # A pass looks at all owners: the next test counts only its own.
        await pool.execute("DELETE FROM commits WHERE owner_id = $1", room.owner_id)
        await pool.execute("DELETE FROM repositories WHERE owner_id = $1", room.owner_id)
