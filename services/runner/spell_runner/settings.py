"""The settings of a runner, and what it knows about its machine."""

import os
import pwd
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from spell_proto import outside
from spell_proto.checks import machine_type_name
from spell_proto.errors import InvalidError, SettingsError, shown
from spell_proto.settings import within
from spell_runner import gpus
from spell_runner.gpus import Gpu

_MACHINE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
ENGINES = ("auto", "local", "docker", "null")
FLOORS = ("warn", "refuse", "off")
FIREWALLS = ("auto", "strict", "off")
ISOLATIONS = ("auto", "bubblewrap", "unshare", "none")
#: A disk for each run where there can be one, nothing without one, or never one.
QUOTAS = ("auto", "strict", "watch")

#: Variables of the runner that a command needs to reach the world as the runner does.
PASSED_ON = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Read from `SPELL_<FIELD>`. `platform_dir` is hidden from runs (default: `data_dir`); `listen` serves /health.

    What a run of the docker engine may use is `run_memory_bytes`, `run_cpus`, `run_shm_bytes` and `run_pids`; 0 is a slot's share of the machine, and half of the memory. Of the GPUs in
    `machine_gpus` (`auto`, `none`, or UUIDs with commas) every run gets `run_gpus`; 0 is a slot's share, at least one.
    A run may write `run_bytes_max` bytes and make `run_files_max` files; 0 is as many as it likes; `run_quota` says how that is
    enforced. Copies of environments from other machines may take `environments_bytes_max`, resources that no run mounts any more
    `mount_cache_bytes_max`. Where notice is given that a `spot` machine is taken away says `spot_notice`: see `notices`.
    """

    data_dir: str
    nats_url: str
    scheduler_url: str
    storage_url: str
    builder_url: str
    machine_id: str = ""
    machine_type: str = "CPU"
    slots: int = within(0, 0, 10_000)
    spot: bool = False
    spot_notice: str = ""
    spot_endpoint: str = ""
    spot_grace_seconds: float = within(15.0, 0.0, 86_400.0)
    engine: str = "auto"
    isolation: str = "auto"
    grace_seconds: float = within(30.0, 0.0, 86_400.0)
    log_bytes_max: int = within(1 << 30, 0, 1 << 50)
    heartbeat_seconds: float = within(5.0, 0.1, 60.0)
    shimd_linger_seconds: float = within(60.0, 0.1, 86_400.0)
    platform_dir: str = ""
    docker_socket: str = "/var/run/docker.sock"
    docker_floor: str = "warn"
    image_bytes_max: int = within(100_000_000_000, 0, 1 << 60)
    run_memory_bytes: int = within(0, 0, 1 << 50)
    run_cpus: float = within(0.0, 0.0, 10_000.0)
    run_shm_bytes: int = within(0, 0, 1 << 50)
    run_pids: int = within(4096, 16, 1 << 22)
    run_bytes_max: int = within(0, 0, 1 << 60)
    run_files_max: int = within(0, 0, 1 << 60)
    run_quota: str = "auto"
    run_firewall: str = "auto"
    run_gpus: int = within(0, 0, 1024)
    machine_gpus: str = "auto"
    environments_bytes_max: int = within(100 * 10**9, 0, 10**18)
    mount_cache_bytes_max: int = within(100 * 10**9, 0, 10**18)
    listen: str = ""
    registry_token: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is. `boot_id` changes with every boot; `passed_on` are variables for every command, and
    `shown` directories that they name, which every command may read. Of its `gpus`, every run gets `run_gpus`.
    """

    id: str
    boot_id: str
    type: str
    slots: int
    spot: bool
    user: str
    home: str
    passed_on: Mapping[str, str]
    shown: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    run_gpus: int = 0


def machine(settings: Settings, present: tuple[Gpu, ...] = ()) -> Machine:
    """Find out what this machine is; its id is kept in `machine.json`. `present` are the GPUs that the driver knows.

    Raises:
        SettingsError: a choice that does not exist, or an id or a type that is no name, or how the outside is
            reached makes no sense.
    """
    for name, value, allowed in (
        ("SPELL_ENGINE", settings.engine, ENGINES),
        ("SPELL_ISOLATION", settings.isolation, ISOLATIONS),
        ("SPELL_RUN_QUOTA", settings.run_quota, QUOTAS),
        ("SPELL_RUN_FIREWALL", settings.run_firewall, FIREWALLS),
        ("SPELL_DOCKER_FLOOR", settings.docker_floor, FLOORS),
    ):
        if value not in allowed:
            raise SettingsError(
                f"the setting {name} must be one of {', '.join(allowed)}, not {shown(value, 20)}"
            )
    machine_id = settings.machine_id or _kept_id(Path(settings.data_dir) / "machine.json")
    if not _MACHINE_ID.fullmatch(machine_id):
        raise SettingsError(
            f"the setting SPELL_MACHINE_ID must be letters, digits, - and _: {shown(machine_id)}"
        )
    try:
        machine_type_name(settings.machine_type)
    except InvalidError as error:
        raise SettingsError(f"the setting SPELL_MACHINE_TYPE: {error}") from error
    reach = outside.load()
    trusted = outside.ca_file(reach, Path(settings.data_dir).resolve() / "ca")
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    account = pwd.getpwuid(os.getuid())
    found = gpus.of_machine(settings.machine_gpus, present)
    slots = settings.slots or (
        gpus.slots_for(len(found), settings.run_gpus) if found else max(2, os.cpu_count() or 1)
    )
    return Machine(
        id=machine_id,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        type=settings.machine_type,
        slots=slots,
        spot=settings.spot,
        user=account.pw_name,
        home=account.pw_dir,
        passed_on=passed_on | outside.for_tools(reach, trusted)["run"],
        shown=(str(Path(trusted).parent),) if trusted else (),
        gpus=found,
        run_gpus=gpus.each(len(found), slots, settings.run_gpus),
    )


def _kept_id(path: Path) -> str:
    try:
        kept: str = orjson.loads(path.read_bytes())["machine_id"]
    except (FileNotFoundError, ValueError, KeyError):
        kept = f"m-{secrets.token_hex(4)}"
        new = path.with_suffix(".new")
        new.write_bytes(orjson.dumps({"machine_id": kept}))
        new.rename(path)
    return kept
