"""uv in a container of an image: what it finds there is what it works for (shell)."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spell_builder import complaints, image_layers
from spell_builder.commands import Say
from spell_builder.docker import CACHE, TOOLS, WORK, Docker, Work
from spell_builder.errors import BuildFailedError
from spell_builder.keys import Interpreter
from spell_builder.uv import Uv
from spell_proto.outside import CA_FILES

_STDIN, _KEPT = "stdin", "kept"
_OF_GIT = ("GIT_", "UV_NO_GITHUB")
#: These are about this machine.
_NOT_WITHIN = frozenset(
    {
        "PATH",
        "HOME",
        "SSL_CERT_DIR",
        "SSL_CLIENT_CERT",
        "NETRC",
        "UV_CACHE_DIR",
        "LC_ALL",
        "UV_COMPILE_BYTECODE",
    }
    | {*CA_FILES}
)


@dataclass(frozen=True, slots=True)
class Room:
    """What containers of builds see of this machine: programs, certificates, and how to reach the outside."""

    uv: str
    ca_file: str
    environ: Mapping[str, str]

    @property
    def tools(self) -> dict[str, str]:
        """The files, by the names that they have in a container."""
        return {"uv": self.uv} | ({image_layers.CA_BUNDLE: self.ca_file} if self.ca_file else {})

    @property
    def variables(self) -> dict[str, str]:
        """For the shell in a container."""
        bundle = f"{TOOLS}/{image_layers.CA_BUNDLE}"
        found = dict.fromkeys(CA_FILES, bundle) if self.ca_file else {}
        found |= {"UV_CACHE_DIR": f"{CACHE}/uv", "APT_CONFIG": f"{WORK}/{image_layers.APT_CONF}"}
        return found | {"SPELL_APT_LISTS": f"{CACHE}/apt-lists"} | dict(self.environ)

    @property
    def files(self) -> dict[str, bytes]:
        """What every container gets."""
        bundle = f"{TOOLS}/{image_layers.CA_BUNDLE}"
        told = f'Acquire::https::CaInfo "{bundle}";\n' if self.ca_file else ""
        return {image_layers.APT_CONF: told.encode()}


def room(uv: Uv) -> Room:
    """What containers see, as the uv of this machine sees it."""
    found = (uv.environment.get(variable, "") for variable in CA_FILES)
    ca_file = next((str(Path(path).resolve()) for path in found if path and Path(path).is_file()), "")
    within = {name: value for name, value in uv.environment.items() if name not in _NOT_WITHIN}
    return Room(str(Path(uv.program).resolve()), ca_file, within)


@dataclass(slots=True)
class Where:
    """The image that work is done in: that of conda packages is only known once they are resolved."""

    image: str


@dataclass(frozen=True, slots=True)
class ContainedUv(Uv):
    """See `Uv`. Nothing that it does there is kept: packages may be built, so it has no cache in common with others."""

    docker: Docker
    room: Room
    where: Where

    async def _run(
        self,
        words: Sequence[str],
        seconds: float,
        say: Say,
        *,
        stdin: str = "",
        keep: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        # Of what this machine has, that of the room counts; what repositories are read with is true there too.
        variables, binds = repositories(environment or {}, self.repositories.directory)
        files = {_STDIN: stdin.encode(), **self.room.files}
        if keep is not None:
            # Of the one file that is named by a descriptor of ours.
            files[_KEPT] = Path(f"/proc/self/fd/{keep}").read_bytes()
            words = [f"{WORK}/{_KEPT}" if word == f"/proc/self/fd/{keep}" else word for word in words]
        command = shlex.join([f"{TOOLS}/uv", "--no-config", *words[1:]])
        script = f"{image_layers.begin(self.room.variables | variables)}exec {command} < {WORK}/{_STDIN}\n"
        work = Work(self.where.image, script, seconds, files, self.room.tools, binds)
        try:
            done = await self.docker.run(work, say)
        except TimeoutError:
            raise BuildFailedError(
                f"pip: uv did not come to an end within {seconds / 60:.0f} minutes"
            ) from None
        if done.code != 0:
            raise complaints.failure(done.errors)
        return done.out


def contained(uv: Uv, python: Interpreter, docker: Docker, room: Room, where: Where) -> ContainedUv:
    """The uv of this machine as it is in an image."""
    return ContainedUv(
        uv.program, python, uv.environment, uv.home, uv.pyenv, uv.repositories, docker, room, where
    )


def repositories(environment: Mapping[str, str], directory: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables with which repositories are read, and the directories that they name, which are the same there."""
    found = {name: value for name, value in environment.items() if name.startswith(_OF_GIT)}
    if "GIT_CONFIG_COUNT" not in found:
        return {}, ()
    number = int(found["GIT_CONFIG_COUNT"])
    # They belong to whom the builder runs as, and git trusts only what belongs to root there.
    found |= {f"GIT_CONFIG_KEY_{number}": "safe.directory", f"GIT_CONFIG_VALUE_{number}": "*"}
    found["GIT_CONFIG_COUNT"] = str(number + 1)
    there = any(str(directory) in name for name in found.values())
    return found, (str(directory),) if there else ()
