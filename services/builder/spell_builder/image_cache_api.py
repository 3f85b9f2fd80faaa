"""Where a runner on another machine finds the image of an environment."""

from typing import Any

from spell_builder.builder import Builder
from spell_builder.image_cache import ImageCache
from spell_builder.stored_api import StoredRoutes


class ImageRoutes(StoredRoutes):
    """See `StoredRoutes`."""

    kind = "image"
    setting = "SPELL_IMAGE_CACHE"

    def __init__(self, builder: Builder, cache: ImageCache | None) -> None:
        super().__init__(builder, cache)
        self._cache = cache

    async def _suspect(self, key: str, damaged: str) -> None:
        if self._cache is not None:
            await self._cache.gone(key, damaged)

    async def _view(self, key: str, *, fetching: bool) -> dict[str, Any] | None:
        del fetching  # a registry keeps what is being pulled
        reference = None if self._cache is None else await self._cache.find(key)
        return None if reference is None else {"image": reference}
