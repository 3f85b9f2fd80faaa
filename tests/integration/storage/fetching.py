"""Owners who ask for code from a git server over https, and the repositories they ask for."""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from integration.storage.git_people import REPOSITORIES, files_of, posted
from spell_proto.http import Caller
from spell_proto.views import Commit, GitCredentialsList, GitCredentialsView, GitHosts, Repository
from support import git_https

_owners = itertools.count(9_000)
HOSTS = TypeAdapter(GitHosts)
VIEW = TypeAdapter(GitCredentialsView)
VIEWS = TypeAdapter(GitCredentialsList)
NOTHING = TypeAdapter(dict)
PASSWORD = "s3cret-of-a-test"


@dataclass
class Source:
    """A repository on somebody's disk that is published elsewhere."""

    work: Path

    def git(self, *arguments):
        return git_https.GitHttps.git("-C", str(self.work), *arguments).strip()

    def commit(self, **files):
        for name, data in files.items():
            (self.work / name).write_bytes(data)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")


@dataclass
class Owner:
    """Somebody who asks for code."""

    api: Caller
    owner_id: int = field(default_factory=lambda: next(_owners))

    async def told(self, url, ref=None):
        """Everything that is said about a fetch."""
        path = f"/code/{self.owner_id}/fetch"
        async with posted(self.api, path, {"url": url, "ref": ref}) as response:
            assert response.content_type == "application/x-ndjson"
            return [json.loads(line) for line in (await response.read()).splitlines()]

    async def fetch(self, url, ref=None):
        last = (await self.told(url, ref))[-1]
        assert "ready" in last, last
        return Commit.model_validate(last["ready"])

    async def refused(self, url, ref=None):
        """Code and sentence of why it cannot be fetched."""
        last = (await self.told(url, ref))[-1]
        assert "failed" in last, last
        return last["failed"]["code"], last["failed"]["message"]

    async def repositories(self):
        path = f"/code/{self.owner_id}/repositories"
        return (await self.api.call("GET", path, REPOSITORIES)).repositories

    async def files(self, commit):
        at = Repository.model_construct(id=commit.repository_id)
        return await files_of(self.api, self, at, commit.commit)
