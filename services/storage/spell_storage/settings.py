"""The settings of the storage service."""

from dataclasses import dataclass

from spell_proto.settings import within


@dataclass(frozen=True, slots=True)
class Settings:
    """`SPELL_<FIELD>`; see docs/operating.md."""

    data_dir: str
    listen: str
    database_url: str
    gateway_url: str
    #: Where clients reach the git server, as remote URLs name it.
    ssh_host: str = "127.0.0.1"
    #: 0: any free port, another one at every start.
    ssh_port: int = within(0, 0, 65_535)
    ssh_listen_host: str = "127.0.0.1"
    #: `s3://bucket/prefix`, `gs://bucket/prefix`, …; empty: <data_dir>/blobs.
    blob_store: str = ""
    #: Asked which commits runs name; empty: no code is ever removed.
    scheduler_url: str = ""
    #: Hosts that code is fetched from, separated by commas: `host` or `host:port`.
    git_hosts: str = "github.com"
    #: Certificates to trust besides those of the machine, for hosts with a private authority.
    git_ca_file: str = ""
    #: The history of one fetched repository, and the time that one fetch may take and may be silent.
    git_fetch_bytes_max: int = 5 << 30
    git_fetch_seconds_max: float = 1800.0
    git_silent_seconds_max: float = 60.0
    #: One push: its pack, its time, its refs; and the refs of a repository.
    git_push_bytes_max: int = 2 << 30
    git_push_seconds_max: float = 1800.0
    git_push_refs_max: int = 5_000
    git_refs_max: int = 200_000
    #: Connections to the git server.
    ssh_connections_max: int = 256
    #: How often unused code is looked for, and how long it is kept after it was last asked for or pushed.
    collect_seconds: float = 3600.0
    commit_kept_seconds: float = 24 * 3600.0
