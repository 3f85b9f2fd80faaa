"""What the platform says in a run's log: phases and lines of the runner's own, appended to the attempt's journal (shell).

On a full disk a line is lost rather than waited for. The last words, why a run has failed and the end marker, have
their room kept for them.
"""

import time
from collections.abc import Callable, Sequence

from spell_proto import logs
from spell_proto.journal import RecordKind, Totals, encode_json
from spell_proto.state import RunState
from spell_runner.directory import Directory
from spell_runner.shim import linux

log = logs.get()

#: A line longer than this is cut: it is meant for a person.
TEXT_CHARS_MAX = 16 * 1024
#: Fits into the room that is kept, with the end marker behind it.
LAST_CHARS_MAX = 1000
#: So many lines, of such a length, are left of many.
SHORTENED_MAX = 10
SHORTENED_CHARS_MAX = 300


class Notes:
    """The runner's pen. It writes only while no shim does, and nothing after the end marker."""

    def __init__(self, directory: Directory, ring: Callable[[], None]) -> None:
        self._directory = directory
        self._ring = ring
        self.ended = False

    def phase(self, state: RunState, *lines: str) -> None:
        """The attempt has entered a phase; `lines` are the first of it."""
        records = [encode_json(RecordKind.PHASE, _now(), phase=state, text=f"Run is {state}")]
        self._append(records + [_line(line) for line in lines])

    def line(self, text: str, *, level: str = "info", important: bool = False) -> None:
        self._append([_line(text, level, important)])

    def lines(self, texts: list[str], *, important: bool = False) -> None:
        if texts:
            self._append([_line(text, important=important) for text in texts])

    def last(self, text: str) -> None:
        """Why the run has failed."""
        self._append([_line(text[:LAST_CHARS_MAX], "error", important=True)], spare=True)

    def end(self, totals: Totals) -> None:
        """The end marker: nothing follows it."""
        record = encode_json(
            RecordKind.END,
            _now(),
            stdout_bytes=totals.stdout_bytes,
            stderr_bytes=totals.stderr_bytes,
            dropped_bytes=totals.dropped_bytes,
            sha256=totals.sha256,
        )
        self._append([record], spare=True, must=True)
        self.ended = True

    def _append(self, records: list[bytes], *, spare: bool = False, must: bool = False) -> None:
        if self.ended:
            return
        try:
            self._directory.append(b"".join(records), spare=spare)
        except OSError as error:
            if must or error.errno not in linux.FULL:
                raise
            log.warning("no room for a line of a log", attempt=self._directory.name)
        else:
            self._ring()


class Silent(Notes):
    """For work beside a command that runs: only its shim may write to the log then."""

    def _append(self, records: list[bytes], *, spare: bool = False, must: bool = False) -> None:
        pass


def shortened(texts: Sequence[str]) -> tuple[str, ...]:
    """Lines for where there is no log, of which there may be any number: the first of them, and how many more."""
    first = [_clean(text, SHORTENED_CHARS_MAX).replace("\0", "\ufffd") for text in texts[:SHORTENED_MAX]]
    more = len(texts) - len(first)
    return (*first, *[f"and {more} more like that"] * bool(more))


def _line(text: str, level: str = "info", important: bool = False) -> bytes:
    return encode_json(
        RecordKind.NOTE, _now(), level=level, text=_clean(text, TEXT_CHARS_MAX), important=important
    )


def _clean(text: str, most: int) -> str:
    # What comes from elsewhere (a builder's output) may hold what UTF-8 cannot carry.
    return text[:most].encode(errors="replace").decode()


def _now() -> int:
    return time.time_ns() // 1000
