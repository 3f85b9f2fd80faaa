"""Where images may come from: what the operator lists, and the registries that an administrator has stored a login for."""

import time

from spell_gateway.storage import Storage
from spell_proto import images

BELIEVED_SECONDS = 30.0


class Registries:
    """`listed` are names with commas between, * for any part of one."""

    def __init__(self, storage: Storage, listed: str = images.REGISTRIES) -> None:
        self._storage = storage
        self._listed = listed
        self._added: tuple[str, ...] = ()
        self._added_at = float("-inf")

    async def check(self, image: str) -> None:
        """See that an image comes from where images may come from.

        Raises:
            InvalidError: it does not.
        """
        registry = images.parse(image).registry
        if images.listed(registry, self._listed):
            return
        asked_at = time.monotonic()
        if registry not in self._added or asked_at - self._added_at > BELIEVED_SECONDS:
            found = await self._storage.registries()
            self._added = tuple(known.registry for known in found.registries)
            self._added_at = asked_at
        images.check_registry(image, ",".join((self._listed, *self._added)))
