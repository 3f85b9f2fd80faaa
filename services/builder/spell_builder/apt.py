"""What apt is told and what it says: conditions to versions, a plan to exact packages, failures to one sentence. Pure.

The scripts are for a POSIX shell as root of the system that the packages are for, wherever that is: a container, or an
overlay. What is to be read stands on stdout in sections, what people may want to see on stderr.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spell_builder import complaints, debian
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_proto.apt import AptPackage

#: Where a script keeps the lists of what the index has, so that not every build fetches them.
LISTS = "SPELL_APT_LISTS"
NEAR_MAX = 3
#: Begins the line in front of a part of what a script writes.
SECTION = "====="
_OPTIONS = (
    "-o",
    "APT::Sandbox::User=root",
    "-o",
    "APT::Install-Recommends=false",
    "-o",
    "APT::Install-Suggests=false",
    # An index that is only partly there must not pass for one that has nothing else.
    "-o",
    "APT::Update::Error-Mode=any",
    "-o",
    "Acquire::Retries=0",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Use-Pty=false",
)
#: There are no packages but those that stand on the command line.
_NO_INDEX = ("-o", "Dir::Etc::SourceList=/dev/null", "-o", "Dir::Etc::SourceParts=/dev/null")
#: An older version is only taken where one is named.
_KEEPING = ("-y", "--no-remove", "--allow-downgrades")
_INST = re.compile(r"Inst (?P<name>\S+) (?:\[\S*\] )?\((?P<version>\S+) .*?\[(?P<architecture>[^\]]+)\]\)")
_REMOVED = re.compile(r"^Remv (\S+)|The following packages will be REMOVED:\n((?:  .*\n)+)", re.MULTILINE)
_POLICY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9+.-]*)(?::[a-z0-9]+)?:$")
_OFFERED = re.compile(r"^ (?:\*\*\*|   ) (?P<version>\S+) -?\d+$")
_GONE = re.compile(r"E: Version '(?P<version>[^']+)' for '(?P<name>[^']+)' was not found")
_MISSING = re.compile(r"E: (?:Unable to locate package|Couldn't find any package by \S+) '?(?P<name>[^'\s]+)")
_NO_CANDIDATE = re.compile(r"E: Package '(?P<name>[^']+)' has no installation candidate")
_UNMET = re.compile(r"unmet dependencies:\n(?P<lines>(?: .*\n?)+)")
_FETCH = re.compile(r"E: Failed to fetch (?P<url>\S+)\s+(?P<reason>.*)")
#: Trouble of the network: worth another try.
_PASSING = re.compile(
    r"Temporary failure|Could not connect|Unable to connect|Connection (?:failed|timed out|refused|reset)|"
    r"Could not resolve|Network is unreachable|Error reading from server|\b(?:429|5\d\d)  ?\w|Hash Sum mismatch|"
    r"File has unexpected size|Undetermined Error|Remote end closed|EOF"
)
_TOO_OLD_TO_TRUST = re.compile(r"E: (?P<what>(?:The repository|Release file).*)")


@dataclass(frozen=True, slots=True)
class Exact:
    """A package as it is in the index, and nothing else. One for another architecture than the system's own has that in
    its name, as in `libc6:i386`.
    """

    name: str
    version: str
    architecture: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}={self.version} {self.architecture} sha256:{self.sha256}"


def read_exact(line: str) -> Exact:
    """The package of a line as `str` of it writes one."""
    head, architecture, digest = line.split()
    name, _, version = head.partition("=")
    return Exact(name, version, architecture, digest.removeprefix("sha256:"))


# ---- scripts ----------------------------------------------------------------------------------------------------


def _apt(program: str, *words: str) -> str:
    # A cache of its own in every layer would be larger than most packages, and one for a script saves seconds.
    cache = '-o Dir::Cache::pkgcache="${TMPDIR:-/tmp}/pkgcache.bin" -o Dir::Cache::srcpkgcache='
    return f'{program} {shlex.join(_OPTIONS)} {cache} -o Dir::State::lists="${LISTS}" {shlex.join(words)}'


def begin(environ: Mapping[str, str], *, fresh_minutes: int) -> str:
    """What every script starts with: what programs may not ask, and lists that are younger than some minutes."""
    told = {
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        "APT_LISTCHANGES_FRONTEND": "none",
        **environ,
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in told.items())
    age = f'find "${LISTS}/updated" -mmin -{fresh_minutes} 2>/dev/null' if fresh_minutes else "true"
    return (
        f'set -e\n{exports}mkdir -p "${LISTS}/partial"\n'
        # Others may read them at the same time. Whoever brings them up to date is alone, and nobody waits for him in vain.
        f'exec 9>"${LISTS}/spell.lock"\nflock -s 9\n'
        f'if [ -z "$({age})" ]; then\nflock 9\nif [ -z "$({age})" ]; then\n'
        f'rm -f "${LISTS}/updated"\n{_apt("apt-get", "update", "-q")} >&2\n: > "${LISTS}/updated"\nfi\nflock -s 9\nfi\n'
    )


def look(names: Iterable[str]) -> str:
    """Which versions there are of some packages, and the names of all where one of them is none."""
    words = sorted(set(names))
    return (
        f"echo {SECTION}policy\n{_apt('apt-cache', 'policy', *words)}\n"
        f"echo {SECTION}names\n"
        f"for name in {shlex.join(words)}; do\n"
        f'{_apt("apt-cache", "show", "--no-all-versions")} -- "$name" >/dev/null 2>&1 || '
        f"{{ {_apt('apt-cache', 'pkgnames')}; break; }}\ndone\n"
    )


def plan(words: Sequence[str]) -> str:
    """What would be installed for some `name` and `name=version`, with the digests of it all."""
    simulated = _apt("apt-get", "install", "-s", *_KEEPING, "--", *words)
    show = _apt("apt-cache", "show")
    return (
        f"planned=$({simulated}) || {{ printf '%s\\n' \"$planned\" >&2; exit 100; }}\n"
        f"echo {SECTION}plan\nprintf '%s\\n' \"$planned\"\n"
        f"echo {SECTION}records\n"
        "printf '%s\\n' \"$planned\" | sed -nE "
        r"'s/^Inst ([^ ]+) (\[[^]]*\] )?\(([^ ]+) .*/\1=\3/p'"
        f" | xargs -r {show} --\n"
    )


def install(packages: Sequence[Exact]) -> str:
    """Install exactly these, each file held against its digest."""
    words = [f"{package.name}={package.version}" for package in packages]
    sums = "".join(f"{package.sha256}\n" for package in packages)
    archives = "/var/cache/apt/archives"
    return (
        f"{_apt('apt-get', 'clean')}\n"
        f"{_apt('apt-get', 'install', '-q', *_KEEPING, '--download-only', '--', *words)} >&2\n"
        # Nothing but what was resolved may be among the files, and each of them must be one of those.
        f"wanted={shlex.quote(sums)}\n"
        f"for file in {archives}/*.deb; do\n"
        'sum=$(sha256sum "$file")\n'
        'case "$wanted" in *"${sum%% *}"*) ;; *) echo "E: $file has another SHA-256 than it should have" >&2; '
        "exit 100;; esac\ndone\n"
        # From here on the files are all there is: scripts of packages may take long, and others want newer lists.
        f'exec 9>&-\nmkdir -p "${{TMPDIR:-/tmp}}/no-lists/partial"\n{LISTS}="${{TMPDIR:-/tmp}}/no-lists"\n'
        f"{_apt('apt-get', 'install', '-q', *_KEEPING, *_NO_INDEX, '--no-download')} -- {archives}/*.deb >&2\n"
        f"{_apt('apt-get', 'clean')}\n"
        "rm -f /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache\n"
    )


# ---- answers ----------------------------------------------------------------------------------------------------


def sections(out: str) -> dict[str, str]:
    """What a script wrote, by section."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in out.splitlines(keepends=True):
        if line.startswith(SECTION):
            name = line.removeprefix(SECTION).strip()
        found.setdefault(name, []).append("" if line.startswith(SECTION) else line)
    return {name: "".join(lines) for name, lines in found.items()}


def words(packages: Sequence[AptPackage], policy: str, names: str) -> list[str]:
    """What to ask apt for: of each package the version that fits all that was said of it.

    Raises:
        BuildFailedError: there is no such package, or no such version of it.
    """
    offered = _offered(policy)
    found = {package.name: offered[package.name] for package in packages if offered.get(package.name)}
    for package in packages:
        if package.name not in found:
            raise _unknown(package.name, names, virtual=package.name in offered)
    result = []
    for name, versions in found.items():
        asked = [package for package in packages if package.name == name]
        fitting = [
            version
            for version in versions
            if all(not each.operator or debian.best(each, (version,)) for each in asked)
        ]
        conditions = [each for each in asked if each.operator]
        if not fitting:
            raise _no_version(conditions, versions)
        chosen = debian.best(AptPackage(name, ">=", fitting[0]), fitting) if conditions else None
        result.append(name if chosen is None else f"{name}={chosen}")
    return sorted(result)


def packages(plan_text: str, records: str) -> tuple[Exact, ...]:
    """The packages of a plan, in order of name.

    Raises:
        BuildFailedError: the index tells no digest of one.
    """
    digests = _digests(records)
    found = set()
    for line in plan_text.splitlines():
        match = _INST.match(line)
        if match is not None:
            name, version = match["name"], match["version"]
            architecture = match["architecture"]
            digest = digests.get((name.partition(":")[0], version, architecture))
            if digest is None:
                raise BuildFailedError(f"apt: the package index tells no SHA-256 of {name} {version}", name)
            found.add(Exact(name, version, architecture, digest))
    return tuple(sorted(found, key=lambda each: (each.name, each.architecture)))


def _offered(policy: str) -> dict[str, list[str]]:
    """Name -> versions on offer, the one that apt would take first."""
    found: dict[str, list[str]] = {}
    name, candidate = "", ""
    for line in policy.splitlines():
        heading, version = _POLICY.match(line), _OFFERED.match(line)
        if heading is not None:
            name, candidate = heading["name"], ""
            found.setdefault(name, [])
        elif line.startswith("  Candidate: "):
            candidate = line.removeprefix("  Candidate: ").strip()
        elif version is not None and candidate not in {"", "(none)"}:
            place = 0 if version["version"] == candidate else len(found[name])
            found[name].insert(place, version["version"])
    return found


def _digests(records: str) -> dict[tuple[str, str, str], str]:
    found = {}
    for record in records.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in record.splitlines() if ": " in line and not line.startswith(" ")
        )
        if "SHA256" in fields:
            key = (fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", ""))
            found[key] = fields["SHA256"]
    return found


# ---- failures ---------------------------------------------------------------------------------------------------


def failure(output: str) -> BuildFailedError:
    """The error to raise for what apt wrote to stderr."""
    output = complaints.printable(output)
    for pattern, sentence in (
        (_MISSING, "unable to locate package {name}"),
        (_GONE, "there is no version {version} of {name} in the package index any more"),
        (_NO_CANDIDATE, "no package is called {name}: it is only a name that others provide"),
    ):
        match = pattern.search(output)
        if match is not None:
            return BuildFailedError(
                complaints.cut("apt: " + sentence.format(**match.groupdict())), match["name"]
            )
    failed = list(_FETCH.finditer(output))
    if failed:
        lasting = [fetch for fetch in failed if not _PASSING.search(fetch["reason"])]
        first = (lasting or failed)[0]
        sentence = complaints.cut(f"apt: {first['url']} cannot be fetched: {first['reason']}")
        return BuildFailedError(sentence) if lasting else IndexUnreachableError(sentence)
    return BuildFailedError(complaints.cut(f"apt: {_conflict(output) or _last(output)}"))


def _conflict(output: str) -> str | None:
    unmet = _UNMET.search(output)
    if unmet is not None:
        lines = [" ".join(line.split()).replace(" : ", ": ", 1) for line in unmet["lines"].splitlines()]
        return f"the packages do not go together: {'; '.join(line for line in lines if line)}"
    if "remove is disabled" in output or "REMOVED" in output:
        removed = [one or many for one, many in _REMOVED.findall(output)]
        names = " ".join(" ".join(removed).split())
        return f"packages of the system would have to be removed: {names}" if names else None
    signature = _TOO_OLD_TO_TRUST.search(output)
    return None if signature is None else f"the package index cannot be trusted: {signature['what']}"


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return (errors or lines or ["apt gave no reason"])[0 if errors else -1].rstrip(".")


def _unknown(name: str, names: str, *, virtual: bool) -> BuildFailedError:
    if virtual:
        return BuildFailedError(
            f"apt: no package is called {name}: it is only a name that others provide", name
        )
    close = near(name, names.split())
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return BuildFailedError(f"apt: unable to locate package {name}{hint}", name)


def _no_version(asked: Sequence[AptPackage], versions: Sequence[str]) -> BuildFailedError:
    name = asked[0].name
    conditions = " and ".join(dict.fromkeys(f"{each.operator}{each.version}" for each in asked))
    there = ", ".join(dict.fromkeys(versions))
    return BuildFailedError(
        complaints.cut(f"apt: there is no version of {name} that is {conditions}; there is: {there}"), name
    )


def near(name: str, names: Iterable[str]) -> list[str]:
    """Names like one that does not exist. There are tens of thousands, so only those that begin alike are compared."""
    alike = [each for each in names if each[:1] == name[:1] and abs(len(each) - len(name)) <= 3]
    return difflib.get_close_matches(name, alike, NEAR_MAX, 0.75)
