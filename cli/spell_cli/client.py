"""The HTTP API, one method per call, over one connection that is kept.

Every call here may be sent twice without harm (a creation carries an Idempotency-Key), so a lost connection, a
lost answer and a server that is restarting are all answered by asking again, with growing pauses, until
`RETRY_SECONDS_MAX` is over.
"""

import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import quote, urlencode

from spell_cli import answers
from spell_cli.calls import Answer, Call
from spell_cli.errors import CliError, ConfigError, UnreachableError
from spell_cli.progress import Progress
from spell_cli.servers import Address, Server

RETRY_SECONDS_MAX = 30.0
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
#: A stream says something every 15 s.
STREAM_SILENCE_SECONDS = 45.0
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
_READ_BYTES = 1 << 18
#: What a connection that cannot be made or is lost looks like.
LOST = (OSError, http.client.HTTPException)
_HOPELESS = (ssl.SSLCertVerificationError, socket.gaierror)


class Client:
    """A conversation with one server."""

    def __init__(
        self, server: Server, *, patience: float = RETRY_SECONDS_MAX, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self.server = server
        self._patience = patience
        self._answer_seconds = answer_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._address: Address | None = None

    # Runs

    def create_run(self, request: dict[str, Any], key: str) -> answers.Run:
        """Create a run. The same `key` again gives the same run."""
        return cast(
            answers.Run, self._json("POST", "/api/runs", body=request, headers={"Idempotency-Key": key})
        )

    def rerun(self, run_id: int, key: str) -> answers.Run:
        """Create a run that is exactly what another one was."""
        path, headers = f"/api/runs/{run_id}/rerun", {"Idempotency-Key": key}
        return cast(answers.Run, self._json("POST", path, headers=headers))

    def plan_run(self, request: dict[str, Any]) -> answers.RunPlan:
        return cast(answers.RunPlan, self._json("POST", "/api/runs/plan", body=request))

    def run(self, run_id: int) -> answers.Run:
        return cast(answers.Run, self._json("GET", f"/api/runs/{run_id}"))

    def runs(
        self, number: int, *, labels: Sequence[str] = (), repository: str | None = None
    ) -> list[answers.Run]:
        """The newest `number` runs, newest first."""
        found: list[answers.Run] = []
        while len(found) < number:
            query: list[tuple[str, str]] = [("limit", str(min(1000, number - len(found))))]
            query += [("label", label) for label in labels]
            query += [("repository", repository)] if repository is not None else []
            query += [("before", str(found[-1]["id"]))] if found else []
            page = cast(answers.Runs, self._json("GET", f"/api/runs?{urlencode(query)}"))
            found += page["runs"]
            if not page["more"] or not page["runs"]:
                break
        return found

    def end_run(self, run_id: int, how: str) -> answers.EndOutcome:
        """`how` is `stop` or `kill`."""
        return cast(answers.EndOutcome, self._json("POST", f"/api/runs/{run_id}/{how}"))

    def save_run(self, run_id: int) -> answers.SaveOutcome:
        """Have a snapshot taken of a run that is running."""
        return cast(answers.SaveOutcome, self._json("POST", f"/api/runs/{run_id}/save"))

    def end_runs(self, run_ids: Sequence[int], how: str) -> answers.EndOutcomes:
        return cast(
            answers.EndOutcomes, self._json("POST", f"/api/runs/{how}", body={"run_ids": list(run_ids)})
        )

    def archive_runs(self, run_ids: Sequence[int]) -> answers.ArchiveOutcome:
        body = {"run_ids": list(run_ids)}
        return cast(answers.ArchiveOutcome, self._json("POST", "/api/runs/archive", body=body))

    def label_run(self, run_id: int, label: str, *, remove: bool) -> answers.Run:
        path = f"/api/runs/{run_id}/labels/{quote(label, safe='')}"
        return cast(answers.Run, self._json("DELETE" if remove else "PUT", path))

    def follow(
        self, run_id: int, *, offset: int, version: int, tail: int | None, live: bool
    ) -> http.client.HTTPResponse:
        """The stream of a run's records. One attempt: resuming is the follower's business."""
        query = {"offset": offset, "version": version, "follow": int(live)}
        if tail is not None:
            query["tail"] = tail
        path = f"/api/runs/{run_id}/follow?{urlencode(query)}"
        return self.stream(path, accept="application/octet-stream")

    # Files and code

    def resources(self, path: str, *, recursive: bool) -> answers.Listing:
        place = f"/api/resources/{quote(path)}".removesuffix("/")
        return cast(answers.Listing, self._json("GET", place + ("?recursive=1" if recursive else "")))

    def usage(self, path: str) -> answers.Usage:
        return cast(answers.Usage, self._json("GET", f"/api/usage/{quote(path)}".removesuffix("/")))

    def is_file(self, path: str) -> bool:
        """Whether a path that exists is a file, and no directory."""
        return (
            self._ask(Call("HEAD", f"/api/files/{quote(path)}", None, {}, self._answer_seconds)).status < 400
        )

    def file(self, path: str, start: int) -> http.client.HTTPResponse:
        """The bytes of a file from `start` on. One attempt."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self.stream(
            f"/api/files/{quote(path)}", accept="application/octet-stream", headers=headers
        )
        if start and response.status != 206:
            raise CliError(f"{self.server.describe()} cannot send the rest of a file alone.")
        return response

    def files(self, path: str, digests: list[str]) -> http.client.HTTPResponse:
        """Small files of a resource together, as a pack. One attempt."""
        body, headers = json.dumps({"digests": digests}).encode(), {"Content-Type": "application/json"}
        place, kind = f"/api/files/{quote(path)}", "application/octet-stream"
        return self.stream(place, accept=kind, headers=headers, method="POST", data=body)

    def links(self) -> list[answers.Link]:
        return cast(list[answers.Link], self._json("GET", "/api/links")["links"])

    def link(self, alias: str) -> answers.Link:
        return cast(answers.Link, self._json("GET", f"/api/links/{quote(alias, safe='')}"))

    def put_link(self, alias: str, target: str) -> answers.Link:
        path = f"/api/links/{quote(alias, safe='')}"
        return cast(answers.Link, self._json("PUT", path, body={"target": target}))

    def remove_link(self, alias: str) -> None:
        self._json("DELETE", f"/api/links/{quote(alias, safe='')}")

    def put_repository(self, root_commit: str, name: str) -> answers.Repository:
        body = {"root_commit": root_commit, "name": name}
        return cast(answers.Repository, self._json("PUT", "/api/repositories", body=body))

    def repositories(self) -> list[answers.Repository]:
        return cast(list[answers.Repository], self._json("GET", "/api/repositories")["repositories"])

    def patch(self, run_id: int) -> http.client.HTTPResponse:
        """The uncommitted changes of a run. One attempt."""
        return self.stream(f"/api/runs/{run_id}/patch", accept="text/x-diff")

    def git_hosts(self) -> list[str]:
        """The hosts that code is fetched from."""
        return cast(list[str], self._json("GET", "/api/git-hosts")["hosts"])

    def git_credentials(self) -> list[answers.GitCredentials]:
        return cast(list[answers.GitCredentials], self._json("GET", "/api/git-credentials")["credentials"])

    def put_git_credentials(self, host: str, username: str, password: str) -> answers.GitCredentials:
        body = {"username": username, "password": password}
        path = f"/api/git-credentials/{quote(host, safe='')}"
        return cast(answers.GitCredentials, self._json("PUT", path, body=body))

    def remove_git_credentials(self, host: str) -> None:
        self._json("DELETE", f"/api/git-credentials/{quote(host, safe='')}")

    def registries(self) -> answers.Registries:
        return cast(answers.Registries, self._json("GET", "/api/registries"))

    def put_registry(
        self, registry: str, username: str | None = None, password: str | None = None
    ) -> answers.Registry:
        """Store a login; without one, the role of the cluster gets them from Amazon."""
        body = {"username": username, "password": password}
        path = f"/api/registries/{quote(registry, safe='')}"
        return cast(answers.Registry, self._json("PUT", path, body=body))

    def remove_registry(self, registry: str) -> None:
        self._json("DELETE", f"/api/registries/{quote(registry, safe='')}")

    # Environments

    def environments(self) -> answers.Environments:
        return cast(answers.Environments, self._json("GET", "/api/environments"))

    def environment(self, key: str) -> answers.EnvironmentDetail:
        return cast(answers.EnvironmentDetail, self._json("GET", f"/api/environments/{quote(key, safe='')}"))

    def environment_of(self, run_id: int) -> answers.EnvironmentUse:
        return cast(answers.EnvironmentUse, self._json("GET", f"/api/runs/{run_id}/environment"))

    def frameworks(self) -> answers.Frameworks:
        return cast(answers.Frameworks, self._json("GET", "/api/frameworks"))

    def remove_environment(self, key: str) -> answers.Removed:
        path = f"/api/environments/{quote(key, safe='')}"
        return cast(answers.Removed, self._json("DELETE", path, seconds=600.0))

    def collect_environments(self, *, everything: bool) -> answers.Removed:
        path, body = "/api/environments/collect", {"everything": everything}
        return cast(answers.Removed, self._json("POST", path, body=body, seconds=600.0))

    # Everything else

    def user_name(self) -> str:
        return cast(str, self._json("GET", "/api/me")["user"]["name"])

    def events(self, after: str, *, live: bool) -> http.client.HTTPResponse:
        """The stream of all moves behind a cursor. One attempt."""
        query = urlencode({"follow": int(live), "after": after})
        return self.stream(f"/api/events?{query}", accept="application/x-ndjson")

    def check_storage(self) -> http.client.HTTPResponse:
        """All stored files are read again; lines of what is damaged. One attempt."""
        return self.stream("/api/storage/check", accept="application/x-ndjson", method="POST")

    def machine_types(self) -> answers.MachineTypes:
        return cast(answers.MachineTypes, self._json("GET", "/api/machine-types"))

    def status(self) -> answers.Status:
        return cast(answers.Status, self._json("GET", "/api/status"))

    def verify(self, run_id: int | None) -> answers.Verdict:
        query = f"?run_id={run_id}" if run_id is not None else ""
        return cast(answers.Verdict, self._json("GET", f"/api/verify{query}", seconds=600.0))

    def ssh_keys(self) -> list[answers.Key]:
        return cast(list[answers.Key], self._json("GET", "/api/keys")["keys"])

    def add_ssh_key(self, title: str, public_key: str) -> answers.Key:
        body = {"title": title, "public_key": public_key}
        return cast(answers.Key, self._json("POST", "/api/keys", body=body))

    def remove_ssh_key(self, key_id: int) -> None:
        self._json("DELETE", f"/api/keys/{key_id}")

    # How a call is made

    def close(self) -> None:
        """End the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def forget(self) -> None:
        """End the connection and look the server up again before the next call."""
        self.close()
        self._address = None

    def stream(
        self,
        path: str,
        *,
        accept: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        data: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """A request whose answer is read bit by bit. Losing the connection is the caller's business.

        Raises:
            RefusedError: the server says no.
            OSError, HTTPException: the server cannot be reached, or is just restarting.
        """
        call = Call(method, path, data, {"Accept": accept} | (headers or {}), STREAM_SILENCE_SECONDS)
        response = self._send(call)
        if response.status >= 400:
            answer = Answer(response.status, response.reason, response.read())
            raise answer.problem() if answer.temporary else answer.refusal()
        return response

    def _json(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> Any:
        headers = {"Accept": "application/json"} | (headers or {})
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        answer = self._ask(Call(method, path, data, headers, seconds or self._answer_seconds))
        if answer.status >= 400:
            raise answer.refusal()
        try:
            return json.loads(answer.body) if answer.body else {}
        except ValueError:
            raise CliError(f"{self.server.describe()} answered something that is no JSON.") from None

    def _ask(self, call: Call) -> Answer:
        problem: Exception
        try:
            answer = self._once(call)
            if not answer.temporary:
                return answer
            problem = answer.problem()
        except LOST as error:
            problem = error
        if isinstance(problem, ConnectionRefusedError) and self.server.recover():
            self.forget()
        return self._again(call, problem)

    def _again(self, call: Call, problem: Exception) -> Answer:
        """Ask until there is an answer, or patience ends."""
        deadline = time.monotonic() + self._patience
        if not self._patience:
            raise self._unreachable(problem) from problem
        with Progress(f"Waiting for {self.server.describe()}") as progress:
            for pause in pauses():
                if isinstance(problem, _HOPELESS) or time.monotonic() + pause > deadline:
                    break
                time.sleep(pause)
                try:
                    answer = self._once(call)
                except LOST as error:
                    problem = error
                    progress.update(str(error))
                    continue
                if not answer.temporary:
                    return answer
                problem = answer.problem()
        raise self._unreachable(problem) from problem

    def _once(self, call: Call) -> Answer:
        response = self._send(call)
        return Answer(response.status, response.reason, response.read(), dict(response.getheaders()))

    def _send(self, call: Call) -> http.client.HTTPResponse:
        self._address = address = self._address or self.server.address()
        headers = {"Authorization": f"Bearer {address.token}"} | call.headers
        try:
            connection = self._open(address)
            connection.sock.settimeout(call.seconds)
            connection.request(call.method, address.prefix + call.path, body=call.data, headers=headers)
            return connection.getresponse()
        except BaseException:
            self.close()
            raise

    def _open(self, address: Address) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
            self._connection = kind(
                address.host, address.port, timeout=min(CONNECT_SECONDS, self._answer_seconds)
            )
        if self._connection.sock is None:
            self._connection.connect()
        return self._connection

    def _unreachable(self, problem: Exception) -> CliError:
        name = self.server.describe()
        if isinstance(problem, ssl.SSLCertVerificationError):
            return ConfigError(
                f"{name} shows a TLS certificate that is not trusted: {problem.verify_message}."
            )
        return UnreachableError(f"Can't reach {name}: {str(problem) or type(problem).__name__}.")


def new_idempotency_key() -> str:
    """A key no other creation has."""
    return os.urandom(16).hex()


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives."""
    while data := response.read1(_READ_BYTES):
        yield data
    # Before Python 3.11.8 read1() leaves a whole answer open, and the connection is good for nothing after it.
    response.close()


def lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body line by line, as it arrives; a last line without its end is left out."""
    tail = b""
    for data in chunks(response):
        *whole, tail = (tail + data).split(b"\n")
        yield from whole


def pauses() -> Iterator[float]:
    """How long to wait before each further attempt."""
    yield from _PAUSES
    while True:
        yield _PAUSES[-1]
