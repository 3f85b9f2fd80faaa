"""Follows the states of a run from outside, with nothing but nats-py and docs/asyncapi.json.

    pip install nats-py
    python subscriber.py "$(cat ~/.spell/local/subscriber.url)" 7

Prints a line per state and leaves when the run is final. What is on the bus may come twice, late or out of order:
`version` says what is new. Events are kept for seven days, so a run that ended a while ago can be followed too.
"""

import asyncio
import json
import sys

import nats

FINAL = {"complete", "stopped", "killed", "failed", "interrupted"}


async def follow(url: str, run_id: int) -> None:
    """Print the run's states in order, each once."""
    client = await nats.connect(url, inbox_prefix=b"_INBOX_subscriber")
    subscription = await client.jetstream().subscribe(
        f"spell.events.run.{run_id}.moved", stream="EVENTS", ordered_consumer=True
    )
    early: dict[int, dict[str, object]] = {}
    seen = 0
    async for message in subscription.messages:
        fact = json.loads(message.data)
        early[fact["version"]] = fact
        # Versions that are no move (a stop that was asked for) are on the subject `.intent`, so gaps are normal;
        # only older ones than those already printed are stale.
        for version in sorted(early):
            fact = early.pop(version)
            if version <= seen:
                continue
            seen = version
            print(f"run {run_id}: {fact['before'] or 'new'} -> {fact['after']}", flush=True)
            if fact["after"] in FINAL:
                await client.close()
                return


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], int(sys.argv[2])))
