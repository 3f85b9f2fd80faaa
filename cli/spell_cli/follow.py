"""Follows a run's records to the end: reconnects where it was, so that nothing is missing and nothing shown twice."""

import time
from collections.abc import Sequence
from typing import cast

from spell_cli.answers import Run
from spell_cli.client import LOST, Client, chunks, pauses
from spell_cli.errors import CliError, ExitCode, UnreachableError
from spell_cli.last_lines import LastLines
from spell_cli.render import Action, Line, Renderer, detached, run_exit_code
from spell_cli.screen import Screen
from spell_proto.journal import HEADER, Decoder, Record, RecordKind

#: An outage is mentioned when it has lasted this long.
NOTE_AFTER_SECONDS = 3.0
#: A stack that was stopped on purpose does not come back by itself.
GONE_AFTER_SECONDS = 3.0
GIVE_UP_AFTER_SECONDS = 600.0


def watch(
    client: Client,
    run_id: int,
    *,
    verbose: bool,
    live: bool,
    tail: int | None = None,
    first: Sequence[Line] = (),
    created: Run | None = None,
) -> int:
    """Show a run on stdout and stderr, to its end if `live`; the exit code. ^C leaves the run alone."""
    with Screen() as screen:
        renderer = Renderer(run_id, spinners=screen.terminal.live and not verbose)
        follower = Follower(client, run_id, screen, renderer, tail=tail)
        try:
            screen.show(first)
            if created is not None:
                screen.show(renderer.queued(created))
            run = follower.to_end() if live else follower.history()
            follower.show(renderer.leave() if run is None else renderer.done(run))
            follower.release()
        except KeyboardInterrupt:
            screen.show([*renderer.leave(), Line("", ""), *(detached(run_id) if live else ())])
            return ExitCode.DETACHED
        finally:
            client.close()
    return ExitCode.OK if run is None else run_exit_code(run)


class Follower:
    """One view of one run."""

    def __init__(
        self, client: Client, run_id: int, screen: Screen, renderer: Renderer, *, tail: int | None = None
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._screen = screen
        self._renderer = renderer
        self._tail = tail
        self._held = None if tail is None else LastLines(tail)
        self._offset = 0
        self._version = 0
        self._run: Run | None = None
        self._lost_at: float | None = None
        self._noted = False

    def show(self, actions: Sequence[Action]) -> None:
        """Show actions, or hold them back while only the last lines are wanted."""
        if self._held is None:
            self._screen.show(actions)
        else:
            self._held.add(actions)

    def release(self) -> None:
        """The history is over: show the last lines of it; what comes from here on is shown as it comes."""
        if self._held is not None:
            held, self._held = self._held, None
            self._screen.show(held.take())

    def to_end(self) -> Run:
        """Show everything until the run is final."""
        run = self._view(live=True)
        assert run is not None
        return run

    def history(self) -> Run | None:
        """Show what there is by now."""
        return self._view(live=False)

    def _view(self, *, live: bool) -> Run | None:
        attempts = pauses()
        while True:
            before = (self._offset, self._version)
            try:
                self._read(live=live)
                if self._run is not None or not live:
                    return self._run
                problem: Exception = ConnectionError("the stream ended before the run did")
            except LOST as error:
                problem = error
            if (self._offset, self._version) != before:
                attempts = pauses()
            self._client.forget()
            self._wait(next(attempts), problem)

    def _read(self, *, live: bool) -> None:
        response = self._client.follow(
            self._run_id, offset=self._offset, version=self._version, tail=self._tail, live=live
        )
        if self._tail is not None:
            # Where the last lines begin is known to the server only. From here on we resume by offset.
            self._offset = int(response.headers.get("Spell-Offset", "0"))
            self._tail = None
        decoder = Decoder()
        for data in chunks(response):
            self._answered()
            actions: list[Action] = []
            for record in self._records(decoder, data):
                actions += self._take(record)
                if live and record.kind is RecordKind.CAUGHT_UP:
                    self.show(actions)
                    self.release()
                    actions = []
            self.show(actions)

    def _records(self, decoder: Decoder, data: bytes) -> list[Record]:
        try:
            return decoder.feed(data)
        except ValueError as error:
            name = self._client.server.describe()
            raise CliError(f"What {name} sends is no log of a run: {error}.") from None

    def _take(self, record: Record) -> list[Action]:
        if record.kind is RecordKind.DONE:
            self._run = cast(Run, record.json())
            return []
        if record.kind < RecordKind.STATE:
            self._offset += HEADER.size + len(record.payload)
        elif record.kind is RecordKind.STATE:
            version = record.json()["version"]
            if version <= self._version:
                return []
            self._version = version
        return self._renderer.record(record)

    def _answered(self) -> None:
        if self._noted:
            self._screen.show([Line("✨", "Connected again.")])
        self._lost_at, self._noted = None, False

    def _wait(self, pause: float, problem: Exception) -> None:
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        outage = now - self._lost_at
        if outage > NOTE_AFTER_SECONDS and not self._noted:
            self._noted = True
            self._screen.show([Line("✨", "Lost the connection to the server. Trying again…")])
        gone = outage > GONE_AFTER_SECONDS and self._client.server.gone()
        if gone or outage > GIVE_UP_AFTER_SECONDS:
            raise UnreachableError(
                f"Can't reach {self._client.server.describe()}: {problem}.",
                hint=f"The run goes on. Use 'spell logs -f {self._run_id}' to view logs again.",
            )
        time.sleep(pause)
