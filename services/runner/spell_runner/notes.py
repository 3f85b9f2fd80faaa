"""What the platform says in a run's log: phases and lines of the runner's own, appended to the attempt's journal (shell).

On a full disk a line is lost rather than waited for. The last words, why a run has failed and the end marker, have
their room kept for them.
"""

import time
from collections.abc import Callable

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
#: So many lines, of such a length, are gathered at most.
GATHERED_MAX = 10
GATHERED_CHARS_MAX = 300


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


class Gathered(Silent):
    """Keeps what nobody should miss, for whoever tells it elsewhere."""

    def __init__(self, directory: Directory) -> None:
        super().__init__(directory, lambda: None)
        self._kept: list[str] = []
        self._more = 0

    def line(self, text: str, *, level: str = "info", important: bool = False) -> None:  # noqa: ARG002 -- what is gathered has none
        self.lines([text], important=important)

    def lines(self, texts: list[str], *, important: bool = False) -> None:
        room = GATHERED_MAX - len(self._kept) if important else 0
        self._kept += [_clean(text, GATHERED_CHARS_MAX).replace("\0", "\ufffd") for text in texts[:room]]
        self._more += len(texts[room:]) * important

    @property
    def kept(self) -> tuple[str, ...]:
        return (*self._kept, *[f"and {self._more} more like that"] * bool(self._more))


def _line(text: str, level: str = "info", important: bool = False) -> bytes:
    return encode_json(
        RecordKind.NOTE, _now(), level=level, text=_clean(text, TEXT_CHARS_MAX), important=important
    )


def _clean(text: str, most: int) -> str:
    # What comes from elsewhere (a builder's output) may hold what UTF-8 cannot carry.
    return text[:most].encode(errors="replace").decode()


def _now() -> int:
    return time.time_ns() // 1000
