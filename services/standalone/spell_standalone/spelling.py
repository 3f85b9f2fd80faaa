"""Which `SPELL_*` variables mean something, so that a typo in one is not passed over in silence. Pure."""

import difflib
from collections.abc import Iterable

_SERVICES = (
    "BLOB_STORE BUILDER_URL BUILDS_MAX CA_BUNDLE COLLECT_SECONDS COMMIT_KEPT_SECONDS CONDA_BASE_URL CONDA_CHANNELS DATABASE_URL DATA_DIR "
    "DOCKER_IMAGE DOCKER_REGISTRIES DOCKER_SOCKET ENGINE "
    "ENVIRONMENTS_BYTES_MAX ENVIRONMENT_CHECK_SHARE EXTRA_INDEX_URLS "
    "FIRST_SSH_KEY_FILE FIRST_TOKEN_FILE FIRST_USER GATEWAY_URL GIT_CA_FILE GIT_FETCH_BYTES_MAX "
    "GIT_FETCH_SECONDS_MAX GIT_HOSTS GIT_PUSH_BYTES_MAX GIT_PUSH_REFS_MAX GIT_PUSH_SECONDS_MAX "
    "GIT_PUSH_SILENT_SECONDS_MAX GIT_REFS_MAX "
    "GIT_SILENT_SECONDS_MAX GRACE_SECONDS HEARTBEAT_SECONDS HTTPS_PROXY HTTP_PROXY INDEX_HOSTS INDEX_URL ISOLATION LISTEN LOG_BYTES_MAX LOG_LEVEL "
    "LOST_AFTER_SECONDS MACHINE_ID MACHINE_TYPE MACHINE_TYPES NATS_URL NO_PROXY PLATFORM_DIR REACHABLE_SECONDS "
    "RESOLUTION_SECONDS RUNS_MAX RUN_CPUS RUN_MEMORY_BYTES RUN_PIDS RUN_SHM_BYTES SCHEDULER_URL SHIMD_LINGER_SECONDS SLOTS SPOT SSH_CONNECTIONS_MAX SSH_HOST "
    "SSH_LISTEN_HOST SSH_PORT STORAGE_URL UNAWAITED_SECONDS"
)
_COMMAND_LINE = "API_URL DEBUG DIR INSECURE OWNER PG_BIN QUIET TOKEN"
# Set inside a run, which may well type `spell` itself.
_RUNS = "METRICS RUN WORKSPACE"

KNOWN = frozenset(f"SPELL_{name}" for name in f"{_SERVICES} {_COMMAND_LINE} {_RUNS}".split())


def complaints(names: Iterable[str]) -> list[str]:
    """A sentence for each name that begins with SPELL_ and means nothing."""
    found = []
    for name in sorted(names):
        if name.startswith("SPELL_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, 1)
            found.append(f"{name} is no setting" + (f": did you mean {near[0]}?" if near else "."))
    return found
