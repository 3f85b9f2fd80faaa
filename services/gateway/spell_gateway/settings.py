"""Settings of the gateway."""

from dataclasses import dataclass

from spell_proto.images import REGISTRIES


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment variables `SPELL_<NAME>`.

    `listen` is where the world is answered, `gateway_url` where the other services are. With `first_user` set, that
    user is made at start, with the token and the public SSH key that stand in the two files. `docker_registries` is
    where images may come from, with commas between and * for any part of a name.
    """

    database_url: str
    nats_url: str
    scheduler_url: str
    storage_url: str
    builder_url: str
    listen: str
    gateway_url: str
    first_user: str = ""
    first_token_file: str = ""
    first_ssh_key_file: str = ""
    docker_registries: str = REGISTRIES
