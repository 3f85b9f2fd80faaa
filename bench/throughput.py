"""No-op runs through the whole life: namespaces, plain process groups, and a null engine that starts nothing.

    python bench/throughput.py [--seconds 10]

The limits beside them, measured in the same minute: bare processes, and a bare `SKIP LOCKED` queue in the same
Postgres that moves a row through as many committed states as a run has.
"""

import argparse
import asyncio
import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import asyncpg
from stack import Stack, running, table, verdict

from spell_standalone import postgres

FINAL = {"complete", "stopped", "killed", "failed", "interrupted"}
STATES = 5  # commits a run needs at least when nothing is batched: create, start, exit, saved, finished


class Ends:
    """Learns from the stream of events which runs are final: one reader for all clients, as a program that casts
    many runs would have it.
    """

    def __init__(self, stack: Stack) -> None:
        self._stream = stack.request(stack.connection(), "GET", "/api/events?follow=1")
        self._lock = threading.Lock()
        self._ended: set[int] = set()
        self._waiting: dict[int, threading.Event] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            event = json.loads(line)
            if event.get("after") in FINAL:
                assert event["after"] == "complete", event
                with self._lock:
                    self._ended.add(event["run_id"])
                    waiting = self._waiting.pop(event["run_id"], None)
                if waiting is not None:
                    waiting.set()

    def wait(self, run_id: int) -> None:
        with self._lock:
            if run_id in self._ended:
                return
            ended = self._waiting.setdefault(run_id, threading.Event())
        assert ended.wait(60), f"run {run_id} does not end"


def throughput(stack: Stack, at_once: int, seconds: float) -> float:
    """Whole runs per second with `at_once` of them in flight, after a short warm-up."""
    ends = Ends(stack)

    def client(deadline: float) -> int:
        connection, done = stack.connection(), 0
        while time.perf_counter() < deadline:
            answer = stack.request(connection, "POST", "/api/runs", {"command": "true"})
            run = json.loads(answer.read())
            assert answer.status == 201, run
            ends.wait(run["id"])
            done += 1
        connection.close()
        return done

    with ThreadPoolExecutor(at_once) as pool:
        for duration in (min(2.0, seconds), seconds):
            started = time.perf_counter()
            done = sum(pool.map(client, [started + duration] * at_once))
            elapsed = time.perf_counter() - started
    return done / elapsed


def bare_processes(seconds: float, at_once: int = 8) -> float:
    """`bash -c true` as fast as children can be started."""

    def client(deadline: float) -> int:
        done = 0
        while time.perf_counter() < deadline:
            subprocess.run(["bash", "-c", "true"], check=True)
            done += 1
        return done

    with ThreadPoolExecutor(at_once) as pool:
        started = time.perf_counter()
        done = sum(pool.map(client, [started + seconds] * at_once))
        return done / (time.perf_counter() - started)


async def _queue_worker(url: str, deadline: float) -> int:
    connection = await asyncpg.connect(url, server_settings={"search_path": "scheduler"})
    done = 0
    while time.perf_counter() < deadline:
        await connection.execute("INSERT INTO bench_queue (state) VALUES (0)")
        for state in range(1, STATES):
            await connection.execute(
                "UPDATE bench_queue SET state = $1 WHERE id = (SELECT id FROM bench_queue WHERE state = $1 - 1 "
                "LIMIT 1 FOR UPDATE SKIP LOCKED)",
                state,
            )
        done += 1
    await connection.close()
    return done


async def _queue(url: str, seconds: float, workers: int) -> float:
    connection = await asyncpg.connect(url, server_settings={"search_path": "scheduler"})
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_queue (id bigserial PRIMARY KEY, state int)")
    await connection.execute("CREATE INDEX IF NOT EXISTS bench_queue_state ON bench_queue (state)")
    await connection.close()
    started = time.perf_counter()
    done = await asyncio.gather(*[_queue_worker(url, started + seconds) for _ in range(workers)])
    return sum(done) / (time.perf_counter() - started)


def bare_queue(stack: Stack, seconds: float) -> float:
    """Rows per second through the same number of commits, in the stack's own Postgres."""
    settings = json.loads((stack.directory / "local" / "settings.json").read_text())
    url = postgres.url(
        "scheduler", settings["postgres_passwords"]["scheduler"], stack.directory / "local" / "run"
    )
    return asyncio.run(_queue(url, seconds, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    slots = {"SPELL_SLOTS": "64", "SPELL_RUNS_MAX": "64"}
    rows = []
    processes = bare_processes(min(seconds, 5))
    for name, at_once, least, settings in (
        ("local engine, namespaces", 8, 25, {}),
        ("local engine, process group", 8, 50, {"SPELL_ISOLATION": "none"}),
        ("null engine", 64, 200, {"SPELL_ENGINE": "null"}),
    ):
        with running(**slots, **settings) as stack:
            rate = throughput(stack, at_once, seconds)
            limit, limit_name = processes, "bare processes"
            if name == "null engine":
                limit, limit_name = bare_queue(stack, min(seconds, 5)), "bare SKIP LOCKED queue"
        rows.append(
            (
                f"{name}, {at_once} at a time",
                f"{rate:.0f}/s",
                f"{limit_name} {limit:.0f}/s",
                f"{rate / limit:.3f}x",
                verdict(rate >= least, f">= {least}/s"),
            )
        )
    table(f"No-op runs through the whole life, {os.cpu_count()} cores, {seconds:.0f} s each", rows)


if __name__ == "__main__":
    main()
