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
