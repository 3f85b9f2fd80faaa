"""The directory of one attempt: everything that must survive the runner's death stands in it (shell).

    intent.json   that the attempt was taken on: its spec, and the boot it was taken on in
    steps.jsonl   its steps so far, in order; written before they are reported. And the end it came to, as soon as that
                  is decided, unless it simply finished
    journal       its log; the runner writes before the command's start and after its end, the shim in between
    launch.json, shim.jsonl, control.sock, upper, work, tmp, spell    see `spell_runner.shim.launch`
    baseline.json the files of a copied workspace as they were at the start
    code.json     where the code is that the run names by a URL, once it is fetched
    disk.img      what the command writes to, where there are limits: a file system, mounted below `disks`
    pushing       where the builder says that its environment is stored, if it was not yet when the run began

Room for the end is kept on the disk from the beginning on: behind the end of `steps.jsonl`, `shim.jsonl` and `journal`.
So whoever was taken on can be ended, however full the disk is by then.

Files are written to survive a death of ours on the same boot; a reboot ends the attempt anyway.
"""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter

from spell_proto.events import AnyStep, Step
from spell_proto.journal import HEADER, OUTPUT, PAYLOAD_BYTES_MAX, Decoder, RecordKind, Totals
from spell_proto.spec import AttemptSpec, CodeLocation
from spell_proto.state import Reason
from spell_runner.phases import Outcome, Verdict
from spell_runner.shim import linux
from spell_runner.shim.launch import JOURNAL, SPARE_BYTES, WRITTEN, append_whole

INTENT, STEPS, BASELINE = "intent.json", "steps.jsonl", "baseline.json"
CODE = "code.json"
#: The disk of an attempt that has one of its own, and where those of all attempts are mounted.
IMAGE, DISKS = "disk.img", "disks"
PUSHING = "pushing"
SPEC: TypeAdapter[AttemptSpec] = TypeAdapter(AttemptSpec)
_CODE: TypeAdapter[CodeLocation] = TypeAdapter(CodeLocation)
_STEP: TypeAdapter[Step] = TypeAdapter(AnyStep)
#: What a line of `steps.jsonl` begins with that is the verdict.
_VERDICT = b'{"verdict":'
_READ_BYTES = 1 << 20
_RECORD_BYTES_MAX = HEADER.size + PAYLOAD_BYTES_MAX
_KINDS = frozenset(RecordKind)


@dataclass(frozen=True, slots=True)
class Taken:
    """What `intent.json` says."""

    spec: AttemptSpec
    boot_id: str


class Directory:
    """The files of the attempt `<run>-<attempt>`. Made by `take_on`, or opened as it was left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Plain strings, and one descriptor for the journal: an attempt touches its files some twenty times.
        self.name = path.name
        self.base = str(path)
        self._journal: int | None = None
        self.has_disk = os.access(self / IMAGE, os.F_OK)

    def __truediv__(self, name: str) -> str:
        if name.partition("/")[0] in WRITTEN:
            return f"{self.place}/{name}"
        return f"{self.base}/{name}"

    @property
    def disk(self) -> str:
        """Where its disk is mounted, if it has one."""
        return os.path.abspath(f"{self.base}/../../{DISKS}/{self.name}")  # noqa: PTH100 -- plain strings throughout

    @property
    def place(self) -> str:
        """Where everything is that the command writes to."""
        return self.disk if self.has_disk else self.base

    def close(self) -> None:
        """Let go of the journal. Anything may be called again afterwards."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    # ---- the beginning ---------------------------------------------------------------------------------------

    @classmethod
    def take_on(cls, attempts: Path, spec: AttemptSpec, raw: bytes, boot_id: str) -> "Directory":
        """Make the directory of a new attempt, all at once: where it stands, its intent record is whole."""
        name = f"{spec.run_id}-{spec.attempt}"
        new = attempts / f".{name}"
        new.mkdir(mode=0o700, exist_ok=True)
        try:
            _write(f"{new}/{INTENT}", b'{"boot_id":%b,"spec":%b}' % (orjson.dumps(boot_id), raw))
            # A message of the last step is in the verdict, too.
            _set_aside(f"{new}/{STEPS}", 2 * SPARE_BYTES)
            _set_aside(f"{new}/{JOURNAL}", SPARE_BYTES)
            new.rename(attempts / name)
        except OSError:
            # It may never be asked for again, and what it holds is scarce.
            shutil.rmtree(new, ignore_errors=True)
            raise
        return cls(attempts / name)

    def taken(self) -> Taken:
        """The intent record.

        Raises:
            ValueError: it is torn, as a power cut leaves it.
        """
        members = orjson.loads(_read(self / INTENT))
        return Taken(SPEC.validate_json(orjson.dumps(members["spec"])), members["boot_id"])

    def code(self) -> CodeLocation | None:
        """Where the code is that was fetched for this attempt. A power cut leaves it torn, and the attempt lost."""
        try:
            return _CODE.validate_json(_read(self / CODE))
        except (FileNotFoundError, ValueError):
            return None

    def pushing(self) -> str:
        """Where to ask for what the end of the attempt waits for; empty where there is nothing to wait for."""
        try:
            return _read(self / PUSHING).decode("ascii", "replace")
        except FileNotFoundError:
            return ""

    # ---- steps and verdict -----------------------------------------------------------------------------------

    def note(self, steps: tuple[Step, ...]) -> None:
        self._append_steps(b"".join(orjson.dumps(step.model_dump()) + b"\n" for step in steps))

    def steps(self) -> list[Step]:
        return [_STEP.validate_json(line) for line in self._lines() if not line.startswith(_VERDICT)]

    def conclude(self, verdict: Verdict) -> None:
        members = {"outcome": verdict.outcome, "reason": verdict.reason, "message": verdict.message}
        self._append_steps(_VERDICT + orjson.dumps(members) + b"}\n")

    def verdict(self) -> Verdict | None:
        found = [line for line in self._lines() if line.startswith(_VERDICT)]
        if not found:
            return None
        members = orjson.loads(found[-1])["verdict"]
        reason = members["reason"]
        return Verdict(Outcome(members["outcome"]), reason and Reason(reason), members["message"])

    def _append_steps(self, lines: bytes) -> None:
        fd = os.open(self / STEPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            append_whole(fd, lines)
        finally:
            os.close(fd)

    def _lines(self) -> list[bytes]:
        """The whole lines of the steps; what is torn behind them is cut off."""
        try:
            data = _read(self / STEPS)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self / STEPS, len(whole))
        return whole.splitlines()

    def write(self, name: str, data: bytes) -> None:
        """A file that is there whole or not at all, for our eyes only."""
        new = self / f"{name}.new"
        _write(new, data)
        os.rename(new, self / name)  # noqa: PTH104 -- plain strings throughout

    # ---- the journal -----------------------------------------------------------------------------------------

    def append(self, records: bytes, *, spare: bool = False) -> None:
        """Append whole records to the journal, all or none. Only while no shim writes it.

        What is no `spare` leaves the room alone that is kept for the last words.
        """
        if self._journal is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._journal = os.open(self / JOURNAL, flags, 0o600)
        if not spare:
            size = os.fstat(self._journal).st_size
            linux.set_aside(self._journal, size, len(records) + SPARE_BYTES)
        append_whole(self._journal, records)

    def journal_size(self) -> int:
        if self._journal is not None:
            return os.fstat(self._journal).st_size
        try:
            return os.stat(self / JOURNAL).st_size  # noqa: PTH116 -- plain strings throughout
        except FileNotFoundError:
            return 0

    def mend(self) -> tuple[Totals, bool]:
        """Cut off what is no whole record; count what the journal holds, and say whether it has its end marker.

        Only while no shim writes it. Reads the journal once.
        """
        decoder, digest, ended = Decoder(), hashlib.sha256(), False
        counts = {RecordKind.STDOUT: 0, RecordKind.STDERR: 0}
        whole, tail = 0, b""
        try:
            with Path(self / JOURNAL).open("rb") as file:
                while len(tail) < _RECORD_BYTES_MAX and (data := file.read(_READ_BYTES)):
                    tail += data
                    cut = _sound(tail)
                    for record in decoder.feed(tail[:cut]):
                        if record.kind in OUTPUT:
                            counts[record.kind] += len(record.payload)
                            digest.update(record.payload)
                        ended = record.kind is RecordKind.END
                    whole, tail = whole + cut, tail[cut:]
        except FileNotFoundError:
            return Totals(), False
        if tail:
            os.truncate(self / JOURNAL, whole)
            with contextlib.suppress(OSError):
                _set_aside(self / JOURNAL, SPARE_BYTES)
        kept = Totals(counts[RecordKind.STDOUT], counts[RecordKind.STDERR], 0, digest.hexdigest())
        return kept, ended


def _sound(data: bytes) -> int:
    """How many leading bytes are whole records indeed; after a power cut there may be zeros instead."""
    position = 0
    while position + HEADER.size <= len(data):
        length, kind, _ = HEADER.unpack_from(data, position)
        if length > PAYLOAD_BYTES_MAX or kind not in _KINDS or position + HEADER.size + length > len(data):
            break
        position += HEADER.size + length
    return position


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def _set_aside(path: str, length: int) -> None:
    """Keep room for the last words behind the end of a file, which is made if it is not there."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        linux.set_aside(fd, os.fstat(fd).st_size, length)
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 -- plain strings throughout
        return file.read()
