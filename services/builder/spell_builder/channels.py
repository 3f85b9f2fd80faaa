"""Which channels conda packages may come from: those that the operator lists, and no others. Pure."""

import re

from spell_proto.conda import CondaFile, Exact, Named, hidden
from spell_proto.errors import InvalidError, shown

SETTING = "SPELL_CONDA_CHANNELS"
_NAMED = re.compile(r"(?P<name>[\w.-][\w./-]*)=(?P<url>(?:https?|file)://\S+)", re.ASCII)


class Channels:
    """The operator's list: URLs, names below the base URL, and NAME=URL."""

    def __init__(self, listed: str, base_url: str) -> None:
        self._urls: dict[str, str] = {}
        self._base_url = base_url.rstrip("/")
        for item in listed.replace(",", " ").split():
            named = _NAMED.fullmatch(item)
            if named is not None:
                self._urls[named["name"]] = named["url"].rstrip("/")
            elif "://" in item:
                self._urls[item.rstrip("/")] = item.rstrip("/")
            elif self._base_url:
                self._urls[item] = f"{self._base_url}/{item}"

    def of(self, file: CondaFile) -> list[str]:
        """The URLs to look for packages in: those the file names, else all.

        Raises:
            InvalidError: one is not on the list.
        """
        urls = [self._url(channel.text, channel) for channel in file.channels] or list(self._urls.values())
        for package in file.packages:
            if package.channel is not None:
                urls.append(self._url(package.channel, package))
        for exact in file.exact:
            self._url(exact.channel, exact)
        if not urls and not file.exact:
            raise InvalidError(
                "conda_channel_not_allowed",
                f"--conda-file: the operator has listed no channel ({SETTING}), so there is nowhere to get packages from",
                field="environment.conda",
            )
        return list(dict.fromkeys(urls))

    def specs(self, file: CondaFile) -> list[str]:
        """The packages as rattler reads them; a Python is always among them."""
        found = [
            package.text
            if package.channel is None
            else f"{self._url(package.channel, package)}::{package.text}"
            for package in file.packages
        ]
        return found if any(package.name == "python" for package in file.packages) else [*found, "python"]

    def _url(self, channel: str, of: Named | Exact) -> str:
        plain = channel.rstrip("/")
        url = plain if plain in self._urls.values() else self._urls.get(plain)
        if url is None:
            allowed = ", ".join(sorted(map(hidden, self._urls))) or "none"
            raise InvalidError(
                "conda_channel_not_allowed",
                of.place.refusal(
                    f"the channel {shown(hidden(channel))} is not on the operator's list ({SETTING}); "
                    f"allowed: {allowed}"
                ).message,
                field="environment.conda",
                hint="Without 'channels:', packages come from the channels that the operator has set.",
            )
        return url
