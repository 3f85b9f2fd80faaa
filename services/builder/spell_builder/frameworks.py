"""What a name given to `--framework` stands for: packages with their Python, or an image. Pure but for loading."""

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from spell_builder import framework_files
from spell_builder.framework_files import Entry, File, Variant
from spell_proto import frameworks
from spell_proto.environments import FrameworkList, FrameworkView
from spell_proto.errors import InvalidError, SettingsError
from spell_proto.spec import canonical_json

OURS = Path(__file__).with_name("frameworks.toml")
#: What the docker engine gives to a run that names none.
DEFAULT = "default"
FIELD = "environment.framework"


@dataclass(frozen=True, slots=True)
class Expanded:
    """What a framework asks for. An `image` has everything in it; else `pip` is installed over `base_image` with `apt`.

    An empty `base_image` is the one that the machine gives to all, `python` a range of versions or empty, and `pip`
    begins with the framework itself. `fingerprint` changes with what the table says.
    """

    name: str
    base_image: str
    image: str
    apt: tuple[str, ...]
    python: str
    pip: tuple[str, ...]
    indexes: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


class Frameworks:
    """The table."""

    def __init__(self, files: Iterable[File], index_hosts: str = "") -> None:
        """Later files come before earlier ones. Of ours, only indexes on these hosts count."""
        hosts = frozenset(index_hosts.lower().replace(",", " ").split())
        self._entries: dict[str, Entry] = {}
        self._common: tuple[str, ...] = ()
        aliases: dict[str, str] = {}
        for file in files:
            self._common = self._common if file.common is None else file.common
            for entry in file.entries:
                aliases = {word: name for word, name in aliases.items() if name != entry.name}
                self._entries[entry.name] = entry if entry.trusted else _allowed(entry, hosts)
                aliases |= dict.fromkeys(entry.aliases, entry.name)
        # A name means what has the name, whatever another one calls itself.
        self._aliases = {word: name for word, name in aliases.items() if word not in self._entries}

    @classmethod
    def load(cls, own: str, index_hosts: str = "", default: str = "") -> "Frameworks":
        """Ours, and those of an operator's file where there is one.

        Raises:
            SettingsError: the file cannot be read, something in it is wrong, or it has no framework called `default`
                to build upon.
        """
        files = [framework_files.load(OURS, trusted=False)]
        if own:
            files.append(framework_files.load(Path(own), trusted=True))
        found = cls(files, index_hosts)
        if default:
            try:
                image = found.expand(default).image
            except InvalidError as error:
                raise SettingsError(f"the setting SPELL_DEFAULT_FRAMEWORK: {error.message}") from error
            if image:
                raise SettingsError(
                    f"the setting SPELL_DEFAULT_FRAMEWORK: {default} is an image; SPELL_DOCKER_IMAGE names one"
                )
        return found

    def names(self) -> list[str]:
        """All names, the default first."""
        return sorted(self._entries, key=lambda name: (name != DEFAULT, name))

    def listed(self) -> FrameworkList:
        """The table as it is shown."""
        return FrameworkList(frameworks=tuple(self._view(self._entries[name]) for name in self.names()))

    def stands(self, fingerprint: str) -> bool:
        """Whether a framework of this fingerprint is in the table of today."""
        return any(self._fingerprint(entry) == fingerprint for entry in self._entries.values())

    def expand(self, framework: str, accelerator: str | None = None) -> Expanded:
        """What `NAME` or `NAME==VERSION` asks for on a kind of machine.

        Raises:
            InvalidError: there is no framework of this name, or it has one version and that is another.
        """
        name, version = frameworks.parse(framework)
        entry = self._entry(name)
        variant = entry.cuda if accelerator == "cuda" else entry.cpu
        if entry.version and version not in {"", entry.version}:
            raise InvalidError(
                "framework_version_unknown",
                f"--framework: {entry.name} can only be had as an image, and that has version {entry.version}; "
                f"{version} is not there",
                field=FIELD,
            )
        return Expanded(
            entry.name,
            variant.base_image,
            variant.image,
            variant.apt,
            entry.python,
            self._pip(entry, variant, version),
            variant.indexes,
            (f"--framework {entry.name}: {entry.note}",) if entry.note and not version else (),
            self._fingerprint(entry),
        )

    def _entry(self, name: str) -> Entry:
        found = self._entries.get(self._aliases.get(name, name))
        if found is None:
            words = [*self.names(), *self._aliases]
            near = difflib.get_close_matches(name, words, 1)
            raise InvalidError(
                "framework_unknown",
                f"--framework: there is no framework {name}. There is: {', '.join(self.names())}",
                field=FIELD,
                hint=f"Did you mean {near[0]}?" if near else None,
            )
        return found

    def _fingerprint(self, entry: Entry) -> str:
        return hashlib.sha256(canonical_json([asdict(entry), self._common])).hexdigest()

    def _pip(self, entry: Entry, variant: Variant, version: str) -> tuple[str, ...]:
        if not variant.packages:
            return ()
        first, *others = variant.packages
        if version:
            main = Requirement(first)
            extras = f"[{','.join(sorted(main.extras))}]" if main.extras else ""
            first = f"{main.name}{extras}=={version}"
        return tuple(dict.fromkeys((first, *others, *(self._common if entry.common else ()))))

    def _view(self, entry: Entry) -> FrameworkView:
        return FrameworkView(
            name=entry.name,
            aliases=tuple(sorted(word for word, name in self._aliases.items() if name == entry.name)),
            summary=entry.summary,
            note=entry.note,
            python=entry.python,
            packages=self._pip(entry, entry.cpu, ""),
            image=entry.cpu.image or None,
        )


def _allowed(entry: Entry, hosts: frozenset[str]) -> Entry:
    """The entry without indexes that the operator does not list."""

    def variant(given: Variant) -> Variant:
        kept = tuple(url for url in given.indexes if urlsplit(url).netloc.lower() in hosts)
        return replace(given, indexes=kept)

    return replace(entry, cpu=variant(entry.cpu), cuda=variant(entry.cuda))
