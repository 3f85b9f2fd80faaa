"""Follows the states of a run from outside, with nothing but nats-py and docs/asyncapi.json.

    pip install nats-py
    python subscriber.py "$(cat ~/.spell/local/subscriber.url)" 7

Prints a line per state and leaves when the run is final. What is on the bus may come twice, late or out of order:
the versions of a run count up from 1 without gaps, so a fact is printed once all before it have been. Events are
kept for seven days, so a run that ended a while ago can be followed too.
"""

import asyncio
import json
import sys

import nats

FINAL = {"complete", "stopped", "killed", "failed", "interrupted"}
GAP_SECONDS_MAX = 10.0


async def follow(url: str, run_id: int) -> None:
    """Print the run's states in order, each once."""
    client = await nats.connect(url, inbox_prefix=b"_INBOX_subscriber")
    subscription = await client.jetstream().subscribe(
        f"spell.events.run.{run_id}.*", stream="EVENTS", ordered_consumer=True
    )
    waiting: dict[int, dict] = {}
    printed = 0
    while True:
        try:
            message = await subscription.next_msg(timeout=GAP_SECONDS_MAX if waiting else None)
        except nats.errors.TimeoutError:
            printed = min(waiting) - 1  # what is missing was lost with the stream; the run itself was not
        else:
            fact = json.loads(message.data)
            waiting[fact["version"]] = fact
        for stale in [version for version in waiting if version <= printed]:
            del waiting[stale]
        while (fact := waiting.pop(printed + 1, None)) is not None:
            printed = fact["version"]
            if fact["kind"] == "intent":
                print(f"run {run_id}: {fact['intent']} asked for ({fact['reason']})", flush=True)
                continue
            print(f"run {run_id}: {fact['before'] or 'new'} -> {fact['after']}", flush=True)
            if fact["after"] in FINAL:
                await client.close()
                return


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], int(sys.argv[2])))
