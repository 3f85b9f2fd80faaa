"""Small files that are fetched together: a request for each would cost more than its bytes."""

import threading
from collections.abc import Collection, Generator

from spell_cli.client import LOST, Client, chunks
from spell_proto.blob_packs import Arriving
from spell_proto.errors import SpellError


class Together:
    """What one client is sent in one go. `refused`: there is no use in asking for more; `broke_off`: there is in asking for
    the rest.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.refused = False
        self.broke_off = False

    def files(
        self, base: str, digests: Collection[str], stop: threading.Event
    ) -> Generator[tuple[str, bytes], None, None]:
        """Files below `base` by their SHA-256, verified: those that come. Why others do not, they say by themselves."""
        arriving = Arriving(digests)
        whole = self.broke_off = False
        try:
            for data in chunks(self._client.files(base, list(digests))):
                yield from arriving.feed(data)
                if stop.is_set():
                    return
            whole = True
        except SpellError:
            self.refused = True
        except LOST:
            self.broke_off = True
        finally:
            if not whole:
                self._client.forget()
