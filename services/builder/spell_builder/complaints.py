"""What uv says when it fails → the one sentence that names the package and the reason."""

import re

from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_proto import outside

_SENTENCE_CHARS_MAX = 600
#: What a build prints may be meant for a terminal, or be anything: no journal, database or terminal gets it raw.
_TERMINAL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
#: A package that was asked for by its address.
_ELSEWHERE = re.compile(
    r"`(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])? @ (?P<url>(?!git\+)[a-z][a-z0-9+.-]*:/[^`\s]*)`"
)
_NOT_FOUND = re.compile(r"Because (?P<package>\S+) was not found in the (package registry|cache|provided)")
_NO_VERSION = re.compile(r"Because there (?:is|are) no versions? of (?P<package>\S+)")
_FAILED_TO_BUILD = re.compile(r"Failed to (?:build|download and build|download|read) `(?P<package>[^`]+)`")
_FETCH = re.compile(r"Failed to fetch:? `?(?P<url>[^\s`]+)`?")
_CONCLUSION = re.compile(r",? we can conclude that .*?(?=\.\s|\.$|$)")
#: Trouble of the network: worth another try.
_PASSING = (
    "error sending request",
    "HTTP status server error",
    "Too Many Requests",
    "Request Timeout",
    "error decoding response body",
    "request or response body error",
    "connection closed before message completed",
    "operation timed out",
    "Network unreachable",
)
_UNTRUSTED = ("UnknownIssuer", "unable to get local issuer certificate", "self-signed certificate")
#: Looks like trouble of the network, and no other try will help.
_LASTING = (
    "invalid peer certificate",
    "certificate verify failed",
    "builder error",
    "proxy authorization required",
)


def failure(output: str) -> BuildFailedError:
    """The error to raise for what uv wrote."""
    output = outside.bare(printable(output))
    error = _failure(output)
    error.output = output
    return error


def _failure(output: str) -> BuildFailedError:
    causes = _causes(output)
    last = causes[-1] if causes else _last_line(output)
    head = output.partition("\n\n")[0]
    foreign = _ELSEWHERE.search(head)
    if foreign is not None:
        # Whatever was answered there: it may be a port of this machine.
        return elsewhere(foreign["name"], foreign["url"])
    fetch = _FETCH.search(output)
    if fetch is not None:
        return _unreachable(output, fetch["url"], last)
    not_found = _NOT_FOUND.search(output)
    if not_found is not None:
        name = not_found["package"]
        return BuildFailedError(f"pip: there is no package {name} in the package index", _name(name))
    no_version = _NO_VERSION.search(output)
    if no_version is not None and "depends on" not in output:
        package = no_version["package"].rstrip(",.")
        return BuildFailedError(
            f"pip: there is no version of {package} in the package index for this Python", _name(package)
        )
    build = _FAILED_TO_BUILD.search(output)
    if build is not None:
        name = build["package"]
        return BuildFailedError(cut(f"pip: {name} cannot be built: {_reason(output, last)}"), _name(name))
    if "No solution found" in output:
        return BuildFailedError(cut(f"pip: the packages do not go together: {_plain(last)}"))
    return BuildFailedError(cut(f"pip: the packages cannot be installed: {_plain(last)}"))


def elsewhere(name: str, url: str) -> BuildFailedError:
    """The error for a package that comes from neither an index nor a repository."""
    return BuildFailedError(
        cut(
            f"pip: {name} would come from {outside.hidden(url)}; a package index and git+https:// are allowed"
        ),
        name,
    )


def _name(package: str) -> str | None:
    """The name of `name[extra]>=1`; none where only a URL is named."""
    if package.startswith("git+"):
        return None
    return re.split(r"[^A-Za-z0-9._-]", package, maxsplit=1)[0]


def _unreachable(output: str, url: str, last: str) -> BuildFailedError:
    sentence = cut(f"pip: the package index cannot be read ({url}): {last}") + on_trust(output)
    return IndexUnreachableError(sentence) if passing(output) else BuildFailedError(sentence)


def _causes(output: str) -> list[str]:
    """The `cause:` lines, each with the indented lines that go on with it."""
    causes: list[str] = []
    going_on = False
    for line in output.splitlines():
        if line.startswith("  cause: "):
            causes.append(line.removeprefix("  cause: ").strip())
            going_on = True
        elif going_on and line.startswith("         ") and line.strip():
            causes[-1] += " " + line.strip()
        else:
            going_on = False
    return causes


def _plain(cause: str) -> str:
    return _CONCLUSION.sub("", cause).removeprefix("Because ").removesuffix(".").strip()


def _reason(output: str, last: str) -> str:
    """Why a build failed: the last word of the build's own output, where there is one."""
    for block in ("[stderr]", "[stdout]"):
        _, found, rest = output.partition(block)
        lines = [line.strip() for line in rest.partition("\nhint:")[0].splitlines() if line.strip()]
        if found and lines:
            errors = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception)\b|error:", line)]
            return (errors or lines)[-1]
    return last


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "uv gave no reason"


def on_trust(output: str) -> str:
    """What can be done where no authority is trusted that a server's certificate is of."""
    untrusted = any(word in output for word in _UNTRUSTED)
    return " (certificates of an own authority can be set with SPELL_CA_BUNDLE)" if untrusted else ""


def passing(output: str) -> bool:
    """Whether what a program wrote is trouble of the network, and worth another try."""
    return not any(word in output for word in _LASTING) and any(word in output for word in _PASSING)


def printable(text: str) -> str:
    """Text without what is meant for a terminal."""
    return _UNPRINTABLE.sub("", _TERMINAL.sub("", text))


def cut(sentence: str) -> str:
    """One sentence of bearable length."""
    sentence = " ".join(sentence.split())
    return sentence if len(sentence) <= _SENTENCE_CHARS_MAX else sentence[: _SENTENCE_CHARS_MAX - 1] + "…"
