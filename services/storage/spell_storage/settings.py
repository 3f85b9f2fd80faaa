"""The settings of the storage service."""

from dataclasses import dataclass

from spell_proto.images import REGISTRIES
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
    #: Where buckets of s3:// and gs:// are, where not at Amazon's and Google's own addresses.
    s3_endpoint: str = ""
    gs_endpoint: str = ""
    #: Asked which commits and files runs name; empty: nothing is ever removed.
    scheduler_url: str = ""
    #: Hosts that code is fetched from, separated by commas: `host` or `host:port`.
    git_hosts: str = "github.com"
    #: Certificate authorities to trust for these hosts, instead of the machine's.
    git_ca_file: str = ""
    #: Where images may come from, as the gateway knows it: such a registry may be one that is not public.
    docker_registries: str = REGISTRIES
    #: The IAM role of the cluster, which logins of Amazon's registries are got as: its ARN.
    aws_role: str = ""
    #: Told by those who may be told logins of registries; empty: nobody is.
    registry_token: str = ""
    #: The history of one fetched repository, and the time that one fetch may take and may be silent.
    git_fetch_bytes_max: int = within(5 << 30, 1, 1 << 50)
    git_fetch_seconds_max: float = within(1800.0, 1.0, 24 * 3600.0)
    git_silent_seconds_max: float = within(60.0, 1.0, 3600.0)
    #: One push: its pack, its time in all and without a byte, its refs; and the refs of a repository.
    git_push_bytes_max: int = within(2 << 30, 1, 1 << 50)
    git_push_seconds_max: float = within(1800.0, 1.0, 24 * 3600.0)
    git_push_silent_seconds_max: float = within(600.0, 1.0, 24 * 3600.0)
    git_push_refs_max: int = within(5_000, 1, 1_000_000)
    git_refs_max: int = within(200_000, 1, 10_000_000)
    #: Connections to the git server.
    ssh_connections_max: int = within(256, 1, 10_000)
    #: How often what is unused is looked for, and how long code is kept after it was last asked for or pushed: never so
    #: short that a run could not be made of it in the meantime.
    collect_seconds: float = within(3600.0, 0.01, 366 * 24 * 3600.0)
    commit_kept_seconds: float = within(24 * 3600.0, 600.0, 366 * 24 * 3600.0)
    #: How long saved files are kept that nothing names any more, and those that nothing names yet: never so short that
    #: a save could not come to its end.
    files_kept_seconds: float = within(24 * 3600.0, 3600.0, 366 * 24 * 3600.0)
    #: What one owner may have saved, contents counted once; 0: no limit.
    owner_bytes_max: int = within(0, 0, 1 << 60)
    owner_files_max: int = within(0, 0, 1 << 40)
    #: How long an upload waits for whoever began it to go on.
    upload_kept_seconds: float = within(7 * 24 * 3600.0, 60.0, 366 * 24 * 3600.0)
