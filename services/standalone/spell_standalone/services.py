"""What the stack consists of: each process with its command, its settings, and how to tell that it answers."""

import functools
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from spell_standalone import nats, postgres, probes
from spell_standalone.child import Plan
from spell_standalone.kept import Kept
from spell_standalone.layout import Layout
from spell_standalone.processes import bound_to_parent

#: In this order they are listed; all are started at once, and each waits for what it needs.
NAMES = ("postgres", "nats", "scheduler", "storage", "builder", "gateway", "runner")
#: In this order they are stopped: nobody loses what it still has to tell to.
STOP_ORDER = (("gateway", "runner", "builder"), ("scheduler", "storage"), ("nats",), ("postgres",))

#: What of the caller's environment reaches the services. The stack may live for weeks: it must not depend on,
#: or hold, whatever the shell happened to have set that started it.
_PASSED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
    | {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
)
_PASSED_PREFIXES = ("SPELL_", "LC_", "XDG_", "PIP_", "UV_", "DOCKER_", "CUDA_", "NVIDIA_")


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the caller's environment that all services get."""
    passed = {
        name: value for name, value in environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }
    # The current directory is the user's: a module of theirs must never be taken for one of ours.
    passed["PYTHONSAFEPATH"] = "1"
    # One arena per process is enough for one thread, and saves tens of megabytes over the stack.
    passed["MALLOC_ARENA_MAX"] = "1"
    return passed


def url(kept: Kept) -> str:
    """Where the gateway answers the world."""
    return f"http://127.0.0.1:{kept.ports['gateway']}"


def bus_server(kept: Kept, layout: Layout) -> nats.Server:
    """The NATS server of this stack."""
    return nats.Server(kept.ports["nats"], layout.data / "nats", kept.nats_passwords, (kept.machine_id,))


def plans(
    layout: Layout, kept: Kept, programs: postgres.Programs, nats_program: Path, environ: Mapping[str, str]
) -> list[Plan]:
    """All processes of the stack, in the order of `NAMES`."""
    data = layout.data / "postgres"
    bus = bus_server(kept, layout)
    return [
        Plan(
            "postgres",
            postgres.argv(programs, data, layout.run, bound_to_parent(signal.SIGINT)),
            postgres.environment(),
            functools.partial(postgres.until_ready, layout.run),
            before=functools.partial(postgres.clear_stale, data),
            # SIGINT is "fast": sessions are ended, a checkpoint is written.
            stop_signal=signal.SIGINT,
            stop_seconds_max=postgres.STOP_SECONDS_MAX,
        ),
        Plan(
            "nats",
            nats.argv(nats_program, layout.data / "nats.conf", bound_to_parent(signal.SIGINT)),
            base_environment(environ),
            functools.partial(nats.until_ready, kept.ports["nats"]),
            stop_signal=signal.SIGINT,
            stop_seconds_max=nats.STOP_SECONDS_MAX,
        ),
        *(_service(name, layout, kept, bus, environ) for name in NAMES[2:]),
    ]


def _service(name: str, layout: Layout, kept: Kept, bus: nats.Server, environ: Mapping[str, str]) -> Plan:
    environment = base_environment(environ)
    environment |= {f"SPELL_{other.upper()}_URL": layout.socket_url(other) for other in NAMES[2:6]}
    environment |= {
        "SPELL_DATA_DIR": str(layout.data / name),
        "SPELL_NATS_URL": bus.url(nats.SERVICE),
    }
    if name in postgres.ROLES:
        environment["SPELL_LISTEN"] = layout.socket_url(name)
        environment["SPELL_DATABASE_URL"] = postgres.url(name, kept.postgres_passwords[name], layout.run)
    environment |= _own_settings(name, layout, kept, bus)
    return Plan(
        name,
        # Killed with the supervisor: every service may be killed at any line, and recovers when it is back.
        [*bound_to_parent(signal.SIGKILL), sys.executable, "-m", f"spell_{name}"],
        environment,
        _readiness(name, layout, kept),
    )


def _own_settings(name: str, layout: Layout, kept: Kept, bus: nats.Server) -> dict[str, str]:
    match name:
        case "storage":
            return {
                "SPELL_SSH_LISTEN_HOST": "127.0.0.1",
                "SPELL_SSH_HOST": "127.0.0.1",
                "SPELL_SSH_PORT": str(kept.ports["ssh"]),
                "SPELL_REGISTRY_TOKEN": kept.registry_token,
            }
        case "gateway":
            return {
                # Its internal side listens on SPELL_GATEWAY_URL, which all services know.
                "SPELL_LISTEN": url(kept),
                "SPELL_FIRST_USER": kept.user,
                "SPELL_FIRST_TOKEN_FILE": str(layout.token),
                "SPELL_FIRST_SSH_KEY_FILE": str(layout.public_identity),
            }
        case "runner":
            return {
                "SPELL_LISTEN": layout.socket_url("runner"),
                "SPELL_MACHINE_ID": kept.machine_id,
                "SPELL_NATS_URL": bus.url(nats.runner(kept.machine_id)),
                # Neither the stack nor its user's keys and settings are visible to runs: the CLI keeps them above.
                "SPELL_PLATFORM_DIR": str(layout.user),
                "SPELL_REGISTRY_TOKEN": kept.registry_token,
            }
        case "builder":
            return {"SPELL_REGISTRY_TOKEN": kept.registry_token}
        case _:
            return {}


def _readiness(name: str, layout: Layout, kept: Kept) -> probes.Until:
    match name:
        case "gateway":
            return functools.partial(probes.until, url(kept), "/api/health", probes.healthy)
        case "runner":
            return functools.partial(_runner_answers, layout)
        case _:
            return functools.partial(probes.until, layout.socket_url(name), "/health", probes.healthy)


async def _runner_answers(layout: Layout, seconds: float) -> bool:
    """Whether the runner works, and the scheduler has heard from it."""
    return await probes.until(
        layout.socket_url("runner"), "/health", probes.healthy, seconds
    ) and await probes.until(layout.socket_url("scheduler"), "/machine-types", probes.has_machine, seconds)
