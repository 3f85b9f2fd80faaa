"""A small HTTP server that speaks the public API as far as the command line uses it. Tests write its lines."""
# ruff: noqa: N815, RET502, RET503, TRY301 -- http.server names the methods, and a handler ends where it answers

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from spell_proto import blob_packs
from spell_proto.journal import RecordKind, encode, encode_json

TOKEN = "spell_test"
AT = 1_790_000_000_000_000
CREATED = "2026-11-22T11:50:00Z"


class Cut(Exception):  # noqa: N818 -- no error: the server hangs up on purpose
    """The connection ends here, in the middle."""


def stdout(data: bytes) -> bytes:
    return encode(RecordKind.STDOUT, AT, data)


def stderr(data: bytes) -> bytes:
    return encode(RecordKind.STDERR, AT, data)


def note(text: str, **members: Any) -> bytes:
    return encode_json(RecordKind.NOTE, AT, **({"level": "info", "text": text, "important": False} | members))


def phase(state: str) -> bytes:
    return encode_json(RecordKind.PHASE, AT, phase=state, text=f"Run is {state}")


def state(
    version: int, after: str, text: str, *, kind: str = "moved", intent: str = "run"
) -> tuple[int, bytes]:
    """A record that is not of the journal, and the version it carries."""
    row = {"run_id": 1, "version": version, "kind": kind, "after": after, "intent": intent, "text": text}
    return version, encode(RecordKind.STATE, AT, json.dumps(row).encode())


REQUESTED = state(1, "requested", "Run created -- waiting for a CPU machine.")
END = encode_json(RecordKind.END, AT, stdout_bytes=0)


def whole(*middle: Any) -> list[Any]:
    """A run's life around what is said while it runs."""
    before = [REQUESTED, phase("building"), note("Machine acquired -- commencing run"), phase("running")]
    after = [phase("saving"), note("No modified or new files found"), phase("pushing"), END]
    return [*before, *middle, *after]


class Server:
    """Runs, their streams, files; and a log of what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.callers: set[Any] = set()
        self.runs: dict[int, dict[str, Any]] = {}
        self.after_save: dict[str, Any] = {}
        self.streams: dict[int, list[Any]] = {}
        self.files: dict[str, bytes] = {}
        #: What becomes of the next packs of them.
        self.packs: list[Any] = []
        self.check_lines: list[dict[str, Any]] = []
        self.entries: dict[str, list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.refusals: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
        self.keys: list[dict[str, Any]] = []
        self.remote_url = ""
        self.repositories: list[dict[str, Any]] = []
        self.credentials: list[dict[str, Any]] = []
        self.registries: list[dict[str, Any]] = []
        self.aws_role: str | None = None
        self.patch = b""
        self.has_commit: Callable[[str], bool] = lambda _: True
        self.final = {"state": "complete", "exit_code": 0, "run_seconds": 6.870837}
        self.script: list[Any] = whole(stdout(b"Hello World\n"))
        self.checks = [{"id": "I1", "title": "Every move is legal", "ok": True, "checked": 12, "detail": ""}]
        self.created: dict[str, Any] = {}
        self.spent: set[int] = set()
        self.httpd: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def posts(self, path: str) -> list[tuple[dict[str, str], Any]]:
        return [
            (headers, body)
            for method, where, headers, body in self.asked
            if (method, where) == ("POST", path)
        ]

    def refuse(
        self, method: str, path: str, status: int, code: str, message: str, *, times: int = 1, **more: Any
    ) -> None:
        body = {"code": code, "field": None, "message": message, "hint": None} | more
        self.refusals.setdefault((method, path), []).extend([(status, body)] * times)

    def add_run(self, **given: Any) -> dict[str, Any]:
        run_id = len(self.runs) + 1
        self.runs[run_id] = a_run(run_id) | given
        return self.runs[run_id]

    def add_file(self, run_id: int, path: str, data: bytes, **given: Any) -> None:
        self.files[f"runs/{run_id}/{path}"] = data
        digest = hashlib.sha256(data).hexdigest()
        entry = {
            "path": path,
            "size": len(data),
            "modified_at": CREATED,
            "sha256": digest,
            "mode": 0o644,
            "link": None,
            "changed": False,
        }
        self.entries.setdefault(f"runs/{run_id}", []).append(entry | given)


def a_run(run_id: int) -> dict[str, Any]:
    spec = {
        "command": "true",
        "machine_type": "CPU",
        "environment": {
            "pip": [],
            "requirements": None,
            "constraints": None,
            "python": None,
            "latest": False,
            "key": None,
        },
        "env": {},
        "code": None,
        "github": None,
        "description": "",
        "timeout_seconds": None,
        "docker_image": None,
    }
    return {
        "id": run_id,
        "owner_id": 1,
        "creator": "alice",
        "state": "requested",
        "intent": "run",
        "reason": None,
        "message": None,
        "version": 1,
        "attempt": 0,
        "machine_id": None,
        "machine_reachable": True,
        "spec": spec,
        "labels": [],
        "exit_code": None,
        "created_at": CREATED,
        "started_at": None,
        "ended_at": None,
        "archived_at": None,
        "run_seconds": None,
        "manifest": None,
        "saved_files": None,
        "saved_bytes": None,
        "saves": 0,
        "saves_met": 0,
        "save_problem": None,
        "saved_changed": None,
        "save_notes": [],
        "snapshots": [],
        "log": None,
        "queue_reason": None,
        "engine": None,
        "gpus": [],
    }


class Handler(BaseHTTPRequestHandler):
    """One connection; `server.ours` is the `Server`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _handle(self) -> None:
        ours: Server = self.server.ours  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = json.loads(raw) if raw else None
        ours.callers.add(self.client_address)
        ours.asked.append((self.command, parts.path, dict(self.headers), body))
        waiting = ours.refusals.get((self.command, parts.path))
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._json(
                    401, {"code": "unauthorized", "field": None, "message": "No.", "hint": None}
                )
            if waiting:
                status, answer = waiting.pop(0)
                if status == 0:
                    raise Cut
                return self._json(status, answer)
            for pattern, handler in ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {unquote(parts.path)}"):
                    return handler(self, ours, body, *match.groups())
            self._json(404, {"code": "not_found", "field": None, "message": f"no {self.path}", "hint": None})
        except Cut:
            self.close_connection = True
            self.connection.shutdown(2)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if self.command != "HEAD" else b"")

    def _begin(self, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def create(self, ours: Server, body: Any) -> None:
        code = body.get("code")
        if code is not None and not ours.has_commit(code.get("snapshot") or code["commit"]):
            refusal = {
                "code": "commit_unknown",
                "field": "code.commit",
                "message": "unknown",
                "hint": "push it",
            }
            return self._json(409, refusal)
        key = self.headers.get("Idempotency-Key")
        found = next((run for run in ours.runs.values() if run.get("key") == key and key), None)
        run = found or ours.add_run(key=key, **ours.created)
        ours.streams[run["id"]] = ours.script
        shown = {name: value for name, value in run.items() if name != "key"}
        self._json(201, shown)

    def follow(self, ours: Server, _: Any, run_id: str) -> None:
        run = ours.runs.get(int(run_id))
        if run is None:
            return self._no_run(run_id)
        offset, version = int(self.query["offset"]), int(self.query["version"])
        tail = self.query.get("tail")
        script = ours.streams.get(int(run_id), ours.script)
        if tail is not None and not offset:
            records = [item for item in script if isinstance(item, bytes)]
            offset = sum(len(item) for item in records[: -int(tail) or None])
        self._begin(Spell_Offset=str(offset))
        position = 0
        for item in script:
            if isinstance(item, bytes):
                if position + len(item) > offset:
                    self._chunk(item[max(0, offset - position) :])
                position += len(item)
            elif isinstance(item, tuple):
                if item[0] > version:
                    self._chunk(item[1])
            elif isinstance(item, threading.Event):
                if self.query["follow"] == "0":
                    self._chunk(encode(RecordKind.CAUGHT_UP, AT, b""))
                    return self.wfile.write(b"0\r\n\r\n")
                item.wait(30)
            elif item == "cut" and len(ours.spent) < script.count("cut"):
                ours.spent.add(len(ours.spent))
                # Half a record, so that the client must throw it away.
                self._chunk(encode(RecordKind.STDOUT, AT, b"never whole")[:9])
                raise Cut
        run |= ours.final
        shown = {name: value for name, value in run.items() if name != "key"}
        self._chunk(encode(RecordKind.CAUGHT_UP, AT, b""))
        self._chunk(encode(RecordKind.DONE, AT, json.dumps(shown).encode()))
        self.wfile.write(b"0\r\n\r\n")

    def _no_run(self, run_id: str) -> None:
        message = f"run {run_id}: there is no such run"
        self._json(404, {"code": "run_not_found", "field": "run_id", "message": message, "hint": None})

    def list_runs(self, ours: Server, _: Any) -> None:
        runs = sorted(ours.runs.values(), key=lambda run: -run["id"])
        before = int(self.query.get("before", 1 << 53))
        runs = [
            run for run in runs if run["id"] < before and self.query.get("label", "") in ["", *run["labels"]]
        ]
        limit = int(self.query["limit"])
        self._json(200, {"runs": runs[:limit], "more": len(runs) > limit})

    def get_run(self, ours: Server, _: Any, run_id: str) -> None:
        run = ours.runs.get(int(run_id))
        self._json(200, run) if run is not None else self._no_run(run_id)

    def end_run(self, ours: Server, _: Any, run_id: str, how: str) -> None:
        run = ours.runs.get(int(run_id))
        if run is None:
            return self._no_run(run_id)
        if run["state"] in {"complete", "stopped", "killed", "failed"}:
            outcome = "already_final"
        elif run["state"] == "requested":
            run["state"], outcome = "killed", "ended"
        else:
            run["intent"], outcome = how, "ending"
        self._json(200, {"outcome": outcome, "run": run})

    def save_run(self, ours: Server, _: Any, run_id: str) -> None:
        run = ours.runs.get(int(run_id))
        if run is None:
            return self._no_run(run_id)
        run["saves"] += 1
        self._json(200, {"asked": run["saves"], "run": dict(run)})
        # What comes of it is there when it is asked about next.
        run.update(ours.after_save)

    def end_runs(self, ours: Server, body: Any, how: str) -> None:
        answer: dict[str, list[int]] = {"ending": [], "ended": [], "already_final": [], "unknown": []}
        for run_id in body["run_ids"]:
            state_of = ours.runs.get(run_id, {}).get("state")
            kind = {None: "unknown", "requested": "ended", "running": "ending"}.get(state_of, "already_final")
            answer[kind].append(run_id)
        self._json(200, answer)

    def archive(self, ours: Server, body: Any) -> None:
        answer: dict[str, list[int]] = {"archived": [], "already_archived": [], "active": [], "unknown": []}
        for run_id in body["run_ids"]:
            run = ours.runs.get(run_id)
            if run is None:
                kind = "unknown"
            elif run["archived_at"]:
                kind = "already_archived"
            else:
                kind = "archived" if run["ended_at"] else "active"
            if kind == "archived":
                run["archived_at"] = run["ended_at"]
            answer[kind].append(run_id)
        self._json(200, answer)

    def check_storage(self, ours: Server, _: Any) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for line in ours.check_lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")
        self.close_connection = True

    def label(self, ours: Server, _: Any, run_id: str, label: str) -> None:
        labels = ours.runs[int(run_id)]["labels"]
        labels.append(label) if self.command == "PUT" else labels.remove(label)
        self._json(200, ours.runs[int(run_id)])

    def resources(self, ours: Server, _: Any, path: str = "") -> None:
        entries = ours.entries.get(path)
        if entries is None and path in ours.files:
            parent, _, name = path.rpartition("/")
            entries = [entry for entry in ours.entries[parent] if entry["path"] == name]
        if entries is None:
            refusal = {
                "code": "resource_not_found",
                "field": "path",
                "message": f"'{path}': no such",
                "hint": None,
            }
            return self._json(404, refusal)
        self._json(200, {"path": path, "entries": entries, "target": None})

    def file(self, ours: Server, _: Any, path: str) -> None:
        data = ours.files.get(path)
        if data is None:
            return self._json(
                409, {"code": "resource_is_directory", "field": "path", "message": "x", "hint": None}
            )
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if not start and len(data) > 100_000:
            self.wfile.write(data[: len(data) // 2])
            raise Cut
        self.wfile.write(data[start:])

    def files_together(self, ours: Server, body: Any, base: str) -> None:
        below = [data for path, data in ours.files.items() if path.startswith(f"{base}/")]
        by_digest = {hashlib.sha256(data).hexdigest(): data for data in below}
        pack = blob_packs.pack(
            (digest, by_digest[digest]) for digest in body["digests"] if digest in by_digest
        )
        sent = ours.packs.pop(0)(pack) if ours.packs else pack
        self._begin()
        self._chunk(sent)
        if len(sent) < len(pack):
            raise Cut
        self.wfile.write(b"0\r\n\r\n")

    def stream_events(self, ours: Server, _: Any) -> None:
        self._begin()
        self._chunk(b"{}\n")
        cursors = [event["cursor"] for event in ours.events]
        behind = cursors.index(self.query["after"]) + 1 if self.query.get("after") else 0
        for event in ours.events[behind:]:
            self._chunk(json.dumps(event).encode() + b"\n")
            if self.query["follow"] == "1" and not ours.spent:
                ours.spent.add(1)
                raise Cut
        if self.query["follow"] == "1":
            time.sleep(0.2)
            raise Cut
        self.wfile.write(b"0\r\n\r\n")

    def put_repository(self, ours: Server, body: Any) -> None:
        known = {
            "id": 1,
            "owner_id": 1,
            "remote_url": ours.remote_url,
            "created_at": CREATED,
            "updated_at": CREATED,
        }
        self._json(200, known | body)

    def repositories(self, ours: Server, _: Any) -> None:
        self._json(200, {"repositories": ours.repositories})

    def patch(self, ours: Server, _: Any, run_id: str) -> None:
        """In two pieces; the first time the connection is lost between them."""
        self._begin()
        self._chunk(ours.patch[:7])
        if not ours.spent:
            ours.spent.add(1)
            raise Cut
        self._chunk(ours.patch[7:])
        self.wfile.write(b"0\r\n\r\n")

    def me(self, ours: Server, _: Any) -> None:
        self._json(200, {"user": {"id": 1, "name": "alice", "created_at": CREATED}})

    def git_hosts(self, ours: Server, _: Any) -> None:
        self._json(200, {"hosts": ["github.com", "git.example.org:8443"]})

    def list_credentials(self, ours: Server, _: Any) -> None:
        self._json(200, {"credentials": ours.credentials})

    def put_credentials(self, ours: Server, body: Any, host: str) -> None:
        view = {"host": host, "username": body["username"], "created_at": CREATED}
        ours.credentials.append(view)
        self._json(200, view)

    def remove_credentials(self, ours: Server, _: Any, host: str) -> None:
        ours.credentials = [known for known in ours.credentials if known["host"] != host]
        self.send_response(204)
        self.end_headers()

    def list_registries(self, ours: Server, _: Any) -> None:
        self._json(200, {"registries": ours.registries, "aws_role": ours.aws_role})

    def put_registry(self, ours: Server, body: Any, registry: str) -> None:
        view = {"registry": registry, "kind": "login", "username": body["username"], "created_at": CREATED}
        ours.registries.append(view)
        self._json(200, view)

    def remove_registry(self, ours: Server, _: Any, registry: str) -> None:
        ours.registries = [known for known in ours.registries if known["registry"] != registry]
        self.send_response(204)
        self.end_headers()

    def machine_types(self, ours: Server, _: Any) -> None:
        kinds = [
            {
                "name": name,
                "machines": 1,
                "slots": 4,
                "slots_used": 1,
                "engines": engines,
                "gpus": gpus,
                "gpu_models": ["Tesla V100"] * gpus,
            }
            for name, engines, gpus in (("CPU", ["docker", "local"], 0), ("V100", ["docker"], 1))
        ]
        self._json(200, {"machine_types": kinds, "default": "CPU"})

    def status(self, ours: Server, _: Any) -> None:
        services = [{"service": "gateway", "version": "0.1.0", "ok": True, "detail": ""}]
        counts = {"runs_max": 4, "active": 3, "queued": 3, "total": 9}
        saved = {"files": 12, "bytes": 3_000_000, "files_max": 0, "bytes_max": 10 << 30}
        self._json(200, {"user": "alice", "services": services, "saved": saved, **counts})

    def verify(self, ours: Server, _: Any) -> None:
        self._json(200, {"checks": ours.checks})

    def list_keys(self, ours: Server, _: Any) -> None:
        self._json(200, {"keys": ours.keys})

    def add_key(self, ours: Server, body: Any) -> None:
        key = {
            "id": len(ours.keys) + 1,
            "title": body["title"],
            "fingerprint": "SHA256:abc",
            "created_at": CREATED,
        }
        ours.keys.append(key)
        self._json(201, key)

    def remove_key(self, ours: Server, _: Any, key_id: str) -> None:
        ours.keys = [key for key in ours.keys if key["id"] != int(key_id)]
        self._json(200, {})


ROUTES = [
    (r"POST /api/runs", Handler.create),
    (r"GET /api/runs", Handler.list_runs),
    (r"POST /api/runs/(stop|kill)", Handler.end_runs),
    (r"POST /api/runs/archive", Handler.archive),
    (r"POST /api/storage/check", Handler.check_storage),
    (r"GET /api/runs/(\d+)", Handler.get_run),
    (r"GET /api/runs/(\d+)/follow", Handler.follow),
    (r"POST /api/runs/(\d+)/(stop|kill)", Handler.end_run),
    (r"POST /api/runs/(\d+)/save", Handler.save_run),
    (r"(?:PUT|DELETE) /api/runs/(\d+)/labels/(.+)", Handler.label),
    (r"GET /api/resources", Handler.resources),
    (r"GET /api/resources/(.+)", Handler.resources),
    (r"(?:GET|HEAD) /api/files/(.+)", Handler.file),
    (r"POST /api/files/(.+)", Handler.files_together),
    (r"GET /api/events", Handler.stream_events),
    (r"PUT /api/repositories", Handler.put_repository),
    (r"GET /api/repositories", Handler.repositories),
    (r"GET /api/runs/(\d+)/patch", Handler.patch),
    (r"GET /api/me", Handler.me),
    (r"GET /api/git-hosts", Handler.git_hosts),
    (r"GET /api/git-credentials", Handler.list_credentials),
    (r"PUT /api/git-credentials/(.+)", Handler.put_credentials),
    (r"DELETE /api/git-credentials/(.+)", Handler.remove_credentials),
    (r"GET /api/registries", Handler.list_registries),
    (r"PUT /api/registries/(.+)", Handler.put_registry),
    (r"DELETE /api/registries/(.+)", Handler.remove_registry),
    (r"GET /api/machine-types", Handler.machine_types),
    (r"GET /api/status", Handler.status),
    (r"GET /api/verify", Handler.verify),
    (r"GET /api/keys", Handler.list_keys),
    (r"POST /api/keys", Handler.add_key),
    (r"DELETE /api/keys/(\d+)", Handler.remove_key),
]


@contextmanager
def serving(ours: Server, port: int = 0) -> Any:
    """`ours` on a port of this machine."""
    httpd = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    httpd.daemon_threads = True
    httpd.ours = ours  # type: ignore[attr-defined]
    ours.httpd = httpd
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield ours
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
