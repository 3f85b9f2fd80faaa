"""Settings of the builder."""

from dataclasses import dataclass

from spell_builder import docker, hosts
from spell_builder.frameworks import DEFAULT
from spell_proto.settings import within


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment variables `SPELL_<NAME>`; times in seconds.

    `index_hosts` are the hosts whose indexes a requirements file may name, besides the index that is set for all.
    `conda_channels` are the channels that a conda file may use: URLs, NAME=URL, or names below `conda_base_url`.
    `frameworks` is a file of more frameworks, in the form of ours; `default_framework` is what runs of the docker engine
    get that name none, and no conda file; empty for none.
    `resolution_seconds` is how long an equal request reuses the versions it got the last time. `builds_max` is
    how many environments are built at once. `unawaited_seconds` is how long a build goes on that nobody waits for.
    `environments_bytes_max` is how much room environments may take that no run uses any more; the longest unused go
    first; `caches_bytes_max` is the same for what builds have downloaded. Looking at an environment for damage, before it is used, may take `environment_check_share` of the time.
    With `share_environments` what is built is stored as an archive too, for runners and builders on other machines; images
    are pushed to the repository `image_cache`.
    `docker_image` is what environments of the docker engine stand on, where nothing else is asked for, on the daemon at
    `docker_socket`. Their builds are on the network of the machine (`build_network` "host"), or that of runs ("runs").
    """

    data_dir: str
    database_url: str
    nats_url: str
    listen: str
    resolution_seconds: float = 24 * 3600.0
    builds_max: int = within(2, 1, 1000)
    unawaited_seconds: float = 10.0
    scheduler_url: str = ""
    storage_url: str = ""
    registry_token: str = ""
    share_environments: bool = False
    image_cache: str = ""
    environments_bytes_max: int = within(100 * 10**9, 0, 10**18)
    caches_bytes_max: int = within(20 * 10**9, 0, 10**18)
    environment_check_share: float = within(0.05, 0.001, 1000.0)
    index_hosts: str = hosts.PUBLIC
    conda_channels: str = ""
    conda_base_url: str = ""
    frameworks: str = ""
    default_framework: str = DEFAULT
    build_network: str = docker.HOST
    docker_socket: str = "/var/run/docker.sock"
    docker_image: str = "docker.io/library/debian:bookworm-slim"
