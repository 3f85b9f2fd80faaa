"""Journals as a machine would write them, for the tests of storage."""

import hashlib
import json
import random
import struct

from pydantic import TypeAdapter

from spell_proto.journal import RecordKind, encode, encode_json
from spell_proto.views import JournalEnds, Verdict

ENDS = TypeAdapter(JournalEnds)
VERDICT = TypeAdapter(Verdict)


def body_of(*parts):
    """A request body; a part is (run_id, attempt, fence, offset, data)."""
    out = bytearray()
    for run_id, attempt, fence, offset, data in parts:
        header = json.dumps(
            {"run_id": run_id, "attempt": attempt, "fence": fence, "offset": offset, "length": len(data)}
        ).encode()
        out += struct.pack(">I", len(header)) + header + data
    return bytes(out)


async def post(api, *parts):
    async with api.open("POST", "/journals", data=body_of(*parts)) as response:
        return ENDS.validate_json(await response.read()).ends


def a_journal(seed, records, largest=60, *, end=True):
    """A journal's bytes, the borders of its records, and its output by stream."""
    rng = random.Random(seed)
    out, borders = bytearray(), [0]
    streams = {"stdout": b"", "stderr": b"", "all": b""}
    for number in range(records):
        kind = rng.choices([RecordKind.STDOUT, RecordKind.STDERR, RecordKind.NOTE], [6, 3, 1])[0]
        if kind == RecordKind.NOTE:
            out += encode_json(kind, number, level="info", text="n" * rng.randrange(5), important=False)
        else:
            payload = bytes(rng.choices(b"abc\n", k=rng.randrange(largest)))
            name = "stdout" if kind == RecordKind.STDOUT else "stderr"
            streams[name] += payload
            streams["all"] += payload
            out += encode(kind, number, payload)
        borders.append(len(out))
    if end:
        out += encode_json(RecordKind.END, records, **totals(streams))
        borders.append(len(out))
    return bytes(out), borders, streams


def totals(streams):
    return {
        "stdout_bytes": len(streams["stdout"]),
        "stderr_bytes": len(streams["stderr"]),
        "dropped_bytes": 0,
        "sha256": hashlib.sha256(streams["all"]).hexdigest(),
    }


async def verdict(api, run_id, attempt=0, **expected):
    async with api.open(
        "GET", "/verify", params={"run_id": run_id, "attempt": attempt, **expected}
    ) as response:
        [check] = VERDICT.validate_json(await response.read()).checks
    return check
