"""Journals through the real service: bytes arrive in any order and are read back exactly once."""

import asyncio
import itertools
import json
import random
import struct

import asyncpg
import pytest

from integration.storage.journal_bytes import a_journal, body_of, post, totals, verdict
from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_proto.journal import OUTPUT, Decoder, RecordKind, encode

pytestmark = pytest.mark.integration

_runs = itertools.count(1_000)


@pytest.fixture
def run_id():
    return next(_runs)


async def get(api, path, *, headers=None, **params):
    async with api.open("GET", path, params=params, headers=headers, stream=True) as response:
        return await response.read()


async def get_json(api, path, **params):
    return json.loads(await get(api, path, **params))


async def test_a_journal_in_one_part_is_read_back_with_its_counts(api, run_id):
    data, _, streams = a_journal(1, 20)

    [end] = await post(api, (run_id, 1, 5, 0, data))

    assert (end.end, end.sealed) == (len(data), True)
    assert await get(api, f"/journals/{run_id}/1/bytes") == data
    assert await get_json(api, f"/journals/{run_id}/1") == {
        "run_id": run_id,
        "attempt": 1,
        "end": len(data),
        "sealed": True,
        "stdout_bytes": len(streams["stdout"]),
        "stderr_bytes": len(streams["stderr"]),
    }


async def test_an_unknown_journal_is_empty(api, run_id):
    state = await get_json(api, f"/journals/{run_id}/0")

    assert (state["end"], state["sealed"]) == (0, False)
    assert await get(api, f"/journals/{run_id}/0/bytes") == b""
    assert await get(api, f"/journals/{run_id}/0/output") == b""
    assert await get_json(api, f"/journals/{run_id}/0/tail", lines=5) == {"offset": 0}


async def test_a_part_behind_a_gap_is_not_stored(api, run_id):
    data, borders, _ = a_journal(2, 10)

    [gap] = await post(api, (run_id, 0, 1, borders[4], data[borders[4] :]))
    [first] = await post(api, (run_id, 0, 1, 0, data[: borders[3]]))
    [again] = await post(api, (run_id, 0, 1, borders[4], data[borders[4] :]))

    assert (gap.end, first.end, again.end) == (0, borders[3], borders[3])
    assert await get(api, f"/journals/{run_id}/0/bytes") == data[: borders[3]]


async def test_only_what_is_new_of_an_overlapping_part_is_stored(api, run_id):
    data, borders, _ = a_journal(3, 10)

    await post(api, (run_id, 0, 1, 0, data[: borders[6]]))
    [end] = await post(api, (run_id, 0, 1, borders[2], data[borders[2] :]))

    assert (end.end, end.sealed) == (len(data), True)
    assert await get(api, f"/journals/{run_id}/0/bytes") == data


async def test_a_torn_record_waits_for_its_rest(api, run_id):
    data, borders, _ = a_journal(4, 5)

    [torn] = await post(api, (run_id, 0, 1, 0, data[: borders[3] + 7]))
    [whole] = await post(api, (run_id, 0, 1, torn.end, data[torn.end :]))

    assert (torn.end, whole.end) == (borders[3], len(data))
    assert await get(api, f"/journals/{run_id}/0/bytes") == data


async def test_bytes_that_are_no_record_are_left_out_and_harm_no_other_run(api, run_id):
    other = next(_runs)
    data, _, _ = a_journal(5, 4, end=False)

    ends = await post(api, (run_id, 0, 1, 0, data + b"\xff" * 40), (other, 0, 1, 0, data))

    assert [end.end for end in ends] == [len(data), len(data)]


async def test_nothing_follows_an_end_marker(api, run_id):
    data, _, _ = a_journal(6, 3)
    more = encode(RecordKind.STDOUT, 9, b"late")

    [sealed] = await post(api, (run_id, 0, 1, 0, data + more))
    [late] = await post(api, (run_id, 0, 2, len(data), more))

    assert sealed == late
    assert await get(api, f"/journals/{run_id}/0/bytes") == data


async def test_a_lower_fence_is_ignored_and_a_higher_one_is_kept(api, run_id):
    data, borders, _ = a_journal(7, 6)

    await post(api, (run_id, 0, 5, 0, data[: borders[2]]))
    [stale] = await post(api, (run_id, 0, 4, borders[2], data[borders[2] :]))
    await post(api, (run_id, 0, 9, borders[2], data[borders[2] : borders[3]]))
    [overtaken] = await post(api, (run_id, 0, 5, borders[3], data[borders[3] :]))

    assert stale.end == borders[2]
    assert overtaken.end == borders[3]


async def test_one_request_brings_many_journals_and_answers_in_their_order(api):
    journals = [(next(_runs), attempt, *a_journal(attempt, 3)[:1]) for attempt in (3, 1, 2)]
    journals.reverse()

    ends = await post(api, *[(run, attempt, 1, 0, data) for run, attempt, data in journals])

    assert [(end.run_id, end.attempt, end.end) for end in ends] == [
        (run, attempt, len(data)) for run, attempt, data in journals
    ]


@pytest.mark.parametrize("seed", range(4))
async def test_overlapping_concurrent_resent_parts_never_tear_or_double_a_byte(storage, run_id, seed):
    """Several senders push random overlapping ranges of the same journals until all of them are sealed."""
    rng = random.Random(seed)
    largest = rng.choice([40, 4_000, 40_000])
    journals = {run_id + 100_000 * number: a_journal(seed + number, 40, largest) for number in range(3)}
    sealed = set()

    async def send(caller):
        while len(sealed) < len(journals):
            parts = []
            for run, (data, borders, _) in journals.items():
                for _ in range(rng.randrange(3)):
                    first = rng.choice(borders)
                    parts.append(
                        (run, 0, 1, first, data[first : rng.choice([b for b in borders if b >= first])])
                    )
            for end in await post(caller, *parts):
                data, borders, _ = journals[end.run_id]
                assert end.end in borders
                if end.sealed:
                    assert end.end == len(data)
                    sealed.add(end.run_id)

    async with Caller(storage.address) as api:
        async with asyncio.timeout(30), asyncio.TaskGroup() as senders:
            for _ in range(4):
                senders.create_task(send(api))

        for run, (data, _, streams) in journals.items():
            assert await get(api, f"/journals/{run}/0/bytes") == data
            for name, output in streams.items():
                assert await get(api, f"/journals/{run}/0/output", stream=name) == output
            check = await verdict(api, run, **totals(streams), journal_bytes=len(data))
            assert check.ok, check.detail


async def test_output_ranges_reach_across_chunks_and_streams(api, run_id):
    data, borders, streams = a_journal(8, 120, 3_000)
    for first, last in itertools.pairwise([*borders[::7], len(data)]):
        await post(api, (run_id, 0, 1, first, data[first:last]))
    rng = random.Random(8)

    for name, output in streams.items():
        for _ in range(15):
            first = rng.randrange(len(output))
            last = rng.randrange(first, len(output) + 50)
            async with api.open(
                "GET",
                f"/journals/{run_id}/0/output",
                params={"stream": name},
                headers={"Range": f"bytes={first}-{last}"},
            ) as response:
                got = await response.read()
                assert response.status == 206
                shown = f"bytes {first}-{min(last, len(output) - 1)}/{len(output)}"
                assert response.headers["Content-Range"] == shown
                assert got == output[first : last + 1]
        suffix = await get(api, f"/journals/{run_id}/0/output", headers={"Range": "bytes=-100"}, stream=name)
        assert suffix == output[-100:]


async def test_a_range_behind_the_output_is_not_satisfiable(api, run_id):
    data, _, streams = a_journal(9, 10)
    await post(api, (run_id, 0, 1, 0, data))

    with pytest.raises(RefusedError) as refused:
        await get(api, f"/journals/{run_id}/0/output", headers={"Range": f"bytes={len(streams['all'])}-"})

    assert refused.value.status == 416


async def test_bytes_can_be_read_from_any_offset_with_a_limit(api, run_id):
    data, borders, _ = a_journal(10, 60)
    for first, last in itertools.pairwise([*borders[::5], len(data)]):
        await post(api, (run_id, 0, 1, first, data[first:last]))

    for offset, limit in [(0, 1), (1, 10), (borders[5], 500), (borders[17] + 3, 10**6), (len(data), 5)]:
        got = await get(api, f"/journals/{run_id}/0/bytes", offset=offset, limit=limit)
        assert got == data[offset : offset + limit]


async def test_a_tail_holds_at_least_the_last_lines_and_starts_at_a_record(api, run_id):
    data, borders, streams = a_journal(11, 80)
    for first, last in itertools.pairwise([*borders[::9], len(data)]):
        await post(api, (run_id, 0, 1, first, data[first:last]))
    lines = streams["all"].splitlines(keepends=True)

    for wanted in (0, 1, 3, 50, len(lines), 10**9):
        offset = (await get_json(api, f"/journals/{run_id}/0/tail", lines=wanted))["offset"]
        assert offset in borders
        records = Decoder().feed(data[offset:])
        text = b"".join(record.payload for record in records if record.kind in OUTPUT)
        assert text.endswith(b"".join(lines[max(0, len(lines) - wanted) :]))
        # A record more than needed at most: its part of the line before may come along.
        assert text.count(b"\n") <= wanted + 60 or offset == 0


async def test_large_parts_become_objects_and_come_back(api, storage, run_id):
    data, borders, streams = a_journal(12, 30, 200_000)

    [half] = await post(api, (run_id, 0, 1, 0, data[: borders[15]]))
    [end] = await post(api, (run_id, 0, 1, 0, data))

    assert (half.end, end.end, end.sealed) == (borders[15], len(data), True)
    assert await get(api, f"/journals/{run_id}/0/bytes") == data
    assert await get(api, f"/journals/{run_id}/0/output", stream="stdout") == streams["stdout"]
    assert list((storage.data / "blobs" / "journals" / str(run_id)).rglob("*-*"))


async def test_many_small_chunks_are_merged_while_they_are_read(api, postgres, run_id):
    data, borders, streams = a_journal(13, 280)

    for first, last in itertools.pairwise(borders):
        await post(api, (run_id, 0, 1, first, data[first:last]))

    connection = await asyncpg.connect(postgres.url("storage"))
    try:
        async with asyncio.timeout(10):
            while True:
                count = await connection.fetchval(
                    "SELECT count(*) FROM storage.chunks WHERE run_id = $1", run_id
                )
                assert await get(api, f"/journals/{run_id}/0/bytes", offset=100) == data[100:]
                if count < 100:
                    break
    finally:
        await connection.close()
    assert await get(api, f"/journals/{run_id}/0/output", stream="stderr") == streams["stderr"]
    check = await verdict(api, run_id, **totals(streams))
    assert check.ok, check.detail


async def test_verification_names_what_does_not_add_up(api, postgres, run_id):
    data, borders, streams = a_journal(14, 30)
    await post(api, (run_id, 0, 1, 0, data[: borders[10]]))

    unsealed = await verdict(api, run_id)
    await post(api, (run_id, 0, 1, 0, data))
    other = await verdict(api, run_id, sha256="0" * 64)
    connection = await asyncpg.connect(postgres.url("storage"))
    await connection.execute(
        "DELETE FROM storage.chunks WHERE run_id = $1 AND start_offset = $2", run_id, borders[10]
    )
    await connection.close()
    torn = await verdict(api, run_id)
    missing = await verdict(api, next(_runs))

    assert not unsealed.ok
    assert "end marker" in unsealed.detail
    assert not other.ok
    assert totals(streams)["sha256"] in other.detail
    assert not torn.ok
    assert f"cover {borders[10]}" in torn.detail
    assert not missing.ok


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"\x00\x00\x00\x05{}",
        b"\x00\x00\x00\x02[]",
        struct.pack(">I", 2**31) + b"{}",
        body_of((1, 0, 1, 0, b"abc"))[:-1],
        body_of((0, 0, 1, 0, b"")),
        body_of((1, -1, 1, 0, b"")),
        body_of((2**53 + 1, 0, 1, 0, b"")),
    ],
)
async def test_a_body_that_is_no_sequence_of_parts_is_refused(api, body):
    with pytest.raises(RefusedError) as refused:
        async with api.open("POST", "/journals", data=body):
            pass

    assert (refused.value.status, refused.value.code) == (422, "journal_request_invalid")


@pytest.mark.parametrize(
    "path",
    [
        "/journals/x/0",
        "/journals/0/0",
        "/journals/1/-1",
        "/journals/1/99999999999",
        "/journals/1/0/output?stream=stdin",
        "/journals/1/0/bytes?offset=-1",
        "/journals/1/0/tail?lines=many",
    ],
)
async def test_numbers_out_of_range_are_refused(api, path):
    with pytest.raises(RefusedError) as refused:
        await get(api, path)

    assert refused.value.status == 422
