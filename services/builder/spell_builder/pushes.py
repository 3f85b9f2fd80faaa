"""Environments on their way to where other machines find them: each in one flight, in the background."""

import asyncio

from spell_builder.errors import PushError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_proto import logs

log = logs.get()


class Pushes:
    """Those of one kind. What is known to be stored is asked of nobody again."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._stored: set[str] = set()
        self._flights: dict[str, Flight] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._closed = False

    async def _push(self, key: str) -> None:
        """Store an environment, unless it is stored already.

        Raises:
            PushError: it cannot be stored.
            GivenUpError: try again.
        """
        raise NotImplementedError

    def pushing(self, key: str) -> bool:
        """Whether an environment that is there is yet to be stored. If so, it is on its way now."""
        if key in self._stored or self._closed:
            return False
        self.push(key)
        return True

    def push(self, key: str) -> Flight:
        """The flight that stores an environment: one under way, or a new one."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight()
            task = self._tasks.create_task(self._fly(key, flight))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        return flight

    def believe(self, key: str) -> None:
        """It is stored."""
        self._stored.add(key)

    def doubt(self, key: str) -> None:
        """It may not be stored any more."""
        self._stored.discard(key)

    def close(self) -> None:
        """End all work at once."""
        self._closed = True
        for task in self._working:
            task.cancel()

    async def _fly(self, key: str, flight: Flight) -> None:
        try:
            await self._push(key)
            self.believe(key)
            flight.land(Ready(key, "", cached=False))
        except (PushError, GivenUpError) as error:
            log.warning("an environment is not shared", key=key, problem=str(error))
            flight.land(error)
        except asyncio.CancelledError:
            flight.land(GivenUpError("the builder stops"))
            raise
        except Exception as error:
            log.exception("an environment could not be shared", key=key)
            flight.land(PushError(f"a bug or a broken disk: {error!r}", passing=False))
        finally:
            del self._flights[key]
