"""The calls about buckets: their listings as they come, their objects, and which private ones have credentials."""

import http.client
import json
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import quote, urlencode

from spell_cli import answers
from spell_cli.client import LOST, Client, lines, pauses
from spell_cli.errors import CliError, UnreachableError


class BucketClient(Client):
    """A conversation about buckets. `etags` are those of objects by their URLs: an object that is another one by the time it
    is fetched is refused.
    """

    etags: Mapping[str, str] = MappingProxyType({})

    def buckets(self) -> list[answers.Bucket]:
        return cast(list[answers.Bucket], self._json("GET", "/api/buckets")["buckets"])

    def put_bucket(self, scheme: str, bucket: str, credentials: dict[str, Any]) -> answers.Bucket:
        path = f"/api/buckets/{scheme}/{quote(bucket, safe='')}"
        return cast(answers.Bucket, self._json("PUT", path, body=credentials))

    def remove_bucket(self, scheme: str, bucket: str) -> None:
        self._json("DELETE", f"/api/buckets/{scheme}/{quote(bucket, safe='')}")

    def objects(
        self, url: str, *, recursive: bool, on_count: Callable[[int], None]
    ) -> list[answers.BucketObject]:
        """What is at a URL, whole; `on_count` hears how much of it is here. A list that breaks off is begun again."""
        until = time.monotonic() + self._patience
        for pause in pauses():
            try:
                return self._objects(url, recursive, on_count)
            except LOST as error:
                self.forget()
                if time.monotonic() + pause > until:
                    raise UnreachableError(f"Can't reach {self.server.describe()}: {error}.") from error
            time.sleep(pause)
        raise AssertionError("there is always another pause")

    def _objects(
        self, url: str, recursive: bool, on_count: Callable[[int], None]
    ) -> list[answers.BucketObject]:
        query = urlencode({"url": url, "recursive": int(recursive)})
        found: list[answers.BucketObject] = []
        for line in lines(self.stream(f"/api/buckets/list?{query}", accept="application/x-ndjson")):
            # An empty line says that there will be more.
            entry: Any = json.loads(line) if line else {}
            if "end" in entry:
                return found
            if entry:
                found.append(entry)
                on_count(len(found))
        raise ConnectionError(f"the list of {url} broke off after {len(found)} objects")

    def file(self, path: str, start: int) -> http.client.HTTPResponse:
        """The bytes of an object from `start` on. One attempt."""
        query = {"url": path} | ({"etag": self.etags[path]} if path in self.etags else {})
        headers = {"Range": f"bytes={start}-"} if start else {}
        address = f"/api/buckets/object?{urlencode(query)}"
        response = self.stream(address, accept="application/octet-stream", headers=headers)
        if start and response.status != 206:
            raise CliError(f"{self.server.describe()} cannot send the rest of a file alone.")
        return response
