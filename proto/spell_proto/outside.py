"""How the tools of builds and runs reach the outside: an extra CA bundle, package indexes and proxies of the operator.

The settings become a few environment variables for each tool. What a run gets holds no user and no password: its code
is anybody's.
"""

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from spell_proto import settings
from spell_proto.errors import SettingsError, shown

Tool = Literal["uv", "conda", "store", "git", "apt", "run"]

#: Variables that name the file of trusted certificates.
CA_FILES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
#: Never through a proxy: nothing of this machine is behind one.
_LOCAL = ("localhost", "127.0.0.1", "::1")
_SCHEMES = {"index": ("https", "http", "file"), "proxy": ("http", "https", "socks5", "socks5h")}
_EXAMPLES = {"index": "https://host/simple", "proxy": "http://host:3128"}
#: Also a password with a slash in it, which stands where others have a port.
_USER = re.compile(r"(?<=://)(?:[^/\s:]*:(?![0-9]*(?:[/\s]|$))\S*@|[^/\s]*@)")
#: Where machines keep the certificates that they trust.
_TRUSTED = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_NAME_OF_BUNDLE = "bundle.pem"


@dataclass(frozen=True, slots=True, repr=False)
class Outside:
    """Environment variables `SPELL_<NAME>`; lists have commas or spaces between."""

    ca_bundle: str = ""
    index_url: str = ""
    extra_index_urls: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    def __repr__(self) -> str:
        return "Outside(…)"  # it may hold passwords


def load(environ: Mapping[str, str] | None = None) -> Outside:
    """The settings, checked.

    Raises:
        SettingsError: one of them makes no sense, or the CA bundle cannot be read.
    """
    found = settings.load(Outside, environ)
    for name, kind, value, urls in (
        ("SPELL_INDEX_URL", "index", found.index_url, [found.index_url]),
        ("SPELL_EXTRA_INDEX_URLS", "index", found.extra_index_urls, _listed(found.extra_index_urls)),
        ("SPELL_HTTP_PROXY", "proxy", found.http_proxy, [found.http_proxy]),
        ("SPELL_HTTPS_PROXY", "proxy", found.https_proxy, [found.https_proxy]),
    ):
        for url in filter(None, urls):
            if not _is_url(kind, url):
                # A password may hold what parts a list.
                told = shown(_hidden(value if "@" in value else url))
                raise SettingsError(f"the setting {name} must be a URL such as {_EXAMPLES[kind]}, not {told}")
    if not found.no_proxy.isprintable():
        raise SettingsError(
            "the setting SPELL_NO_PROXY must name hosts, separated by commas, not "
            f"{shown(found.no_proxy, 40)}"
        )
    if found.ca_bundle:
        _certificates(found.ca_bundle)
    return found


def ca_file(outside: Outside, directory: Path, environ: Mapping[str, str] | None = None) -> str:
    """The file of all certificates to trust, made in `directory`: those of the machine, and those of the operator.
    Empty where the operator has none.

    Raises:
        SettingsError: the CA bundle cannot be read.
    """
    if not outside.ca_bundle:
        return ""
    environ = os.environ if environ is None else environ
    machines = next(
        (path for path in (environ.get("SSL_CERT_FILE", ""), *_TRUSTED) if path and Path(path).is_file()), ""
    )
    parts = [Path(machines).read_bytes()] if machines else []
    parts.append(_certificates(outside.ca_bundle))
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    made = directory / f".{_NAME_OF_BUNDLE}.{os.getpid()}"
    made.write_bytes(b"\n".join(parts) + b"\n")
    made.chmod(0o644)  # runs read it, whoever they are
    made.replace(directory / _NAME_OF_BUNDLE)
    return str(directory / _NAME_OF_BUNDLE)


def for_tools(outside: Outside, trusted: str) -> dict[Tool, dict[str, str]]:
    """The environment variables of each tool, besides its others. `trusted` is what `ca_file` has made."""
    proxies = _proxies(outside, bare=False)
    indexes = _indexes(outside, bare=False)
    uv = {name: value for name, value in indexes.items() if name.startswith("UV_")}
    rust = {"SSL_CERT_FILE": trusted} if trusted else {}
    return {
        "uv": {**rust, **proxies, **uv},
        "conda": {**rust, **proxies},
        "store": {**rust, **proxies},
        "git": {**({"GIT_SSL_CAINFO": trusted} if trusted else {}), **proxies},
        # Its certificates are an option, not a variable: see `apt_options`.
        "apt": proxies,
        "run": {
            **(dict.fromkeys(CA_FILES, trusted) if trusted else {}),
            **_proxies(outside, bare=True),
            **_indexes(outside, bare=True),
        },
    }


def apt_options(trusted: str) -> tuple[str, ...]:
    """Words for apt-get that let it trust the certificates in `trusted`."""
    return ("-o", f"Acquire::https::CaInfo={trusted}") if trusted else ()


def hidden(text: str) -> str:
    """A text without the users and passwords of its URLs."""
    return _USER.sub("…@", text)


def bare(text: str) -> str:
    """A text with its URLs as they are without users and passwords."""
    return _USER.sub("", text)


def _proxies(outside: Outside, *, bare: bool) -> dict[str, str]:
    found = {"http_proxy": outside.http_proxy, "https_proxy": outside.https_proxy}
    found = {name: _without_user(url) if bare else url for name, url in found.items() if url}
    if found or outside.no_proxy:
        hosts = (*_listed(outside.no_proxy), *_LOCAL)
        found["no_proxy"] = ",".join(dict.fromkeys(hosts))
    # Some tools know only one of the spellings.
    return found | {name.upper(): value for name, value in found.items()}


def _indexes(outside: Outside, *, bare: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    if outside.index_url:
        url = _without_user(outside.index_url) if bare else outside.index_url
        found |= {"PIP_INDEX_URL": url, "UV_DEFAULT_INDEX": url}
    extra = _listed(outside.extra_index_urls)
    if extra:
        urls = " ".join(map(_without_user, extra) if bare else extra)
        found |= {"PIP_EXTRA_INDEX_URL": urls, "UV_EXTRA_INDEX_URL": urls}
    return found


def _listed(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_url(kind: str, url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Asked for a port that is none, it raises.
        sound = (parts.hostname or parts.scheme == "file") and (parts.port is None or parts.port > 0)
        # Every tool reads these in its own way, and a password may be behind each of them.
        sound = sound and not re.search(r"[\s?#\\]|@.*@|/.*@", url.partition("://")[2])
    except ValueError:
        sound = False
    return bool(sound) and parts.scheme in _SCHEMES[kind] and url.isprintable() and url.isascii()


def _hidden(text: str) -> str:
    """What may be told of a value that is no URL: nothing before an @, nor behind a ?, where a password may stand."""
    text = f"…@{text.rpartition('@')[2]}" if "@" in text else text
    return re.split(r"[?#]", text, maxsplit=1)[0]


def _certificates(path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the setting SPELL_CA_BUNDLE must name a file of certificates: {shown(path)}: {error.strerror}"
        ) from error
    if not _sound(data):
        raise SettingsError(
            f"the setting SPELL_CA_BUNDLE must name a file of certificates in PEM form, and {shown(path)} holds none"
        )
    return data


def _sound(data: bytes) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        return False
    return bool(context.cert_store_stats()["x509"])


def merged(environ: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Variables of the machine, and the operator's in their place: also of those that mean the same."""
    replaced: Iterable[str] = ()
    if "UV_DEFAULT_INDEX" in ours:
        replaced = ("UV_INDEX_URL",)
    return {name: value for name, value in environ.items() if name not in replaced} | dict(ours)
