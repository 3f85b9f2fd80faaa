"""The runner's side of the message bus while it comes and goes: what needs it asks here, and does without (shell)."""

import asyncio

from spell_proto.bus import Bus


class Link:
    """Holds the bus once there is one. Runs never wait for it."""

    def __init__(self) -> None:
        self.bus: Bus | None = None
        self.up = asyncio.Event()

    def open(self, bus: Bus) -> None:
        self.bus = bus
        self.up.set()

    @property
    def connected(self) -> bool:
        return self.bus is not None and self.bus.connected

    async def get(self) -> Bus:
        """The bus, as soon as there is one."""
        await self.up.wait()
        assert self.bus is not None
        return self.bus
