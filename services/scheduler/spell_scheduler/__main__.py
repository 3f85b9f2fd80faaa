"""`python -m spell_scheduler`: wiring only."""

import asyncio
from collections.abc import Sequence

from spell_proto import bus, codec, database, http, logs, service, settings, subjects
from spell_proto.state import TRANSITIONS
from spell_scheduler import api, loops
from spell_scheduler.creation import Creation
from spell_scheduler.handlers import Handlers
from spell_scheduler.lifecycle import Order
from spell_scheduler.outbox import Relay
from spell_scheduler.runs import SQL, Post
from spell_scheduler.settings import Settings
from spell_scheduler.store import Store

log = logs.get()


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    given = settings.load(Settings)
    async with (
        database.pool(given.database_url, "scheduler") as pool,
        bus.connect(given.nats_url, "scheduler") as nats,
    ):
        await database.migrate(pool, "scheduler", "spell_scheduler")
        moves = [(before or "", after) for before, row in TRANSITIONS.items() for after in row]
        await pool.execute(SQL["write_legal_moves"], [move[0] for move in moves], [move[1] for move in moves])
        await pool.execute(SQL["note_limit"], given.runs_max)
        relay = Relay(pool, nats)

        async def outgoing(posts: Sequence[Post], orders: Sequence[tuple[str, Order]]) -> None:
            for machine_id, order in orders:
                try:
                    await nats.send(subjects.machine_commands(machine_id), codec.encode(order))
                except bus.LOST as error:
                    log.info("a hint is left to the next heartbeat", problem=repr(error))
            relay.offer(posts)

        store = Store(pool, given, outgoing)
        creation = Creation(store)
        handlers = Handlers(store)
        async with (
            nats.answer(subjects.HEARTBEATS_OF_ALL, subjects.SCHEDULER_QUEUE, handlers.heartbeat),
            http.serve(api.application(store, creation, nats), given.listen),
            asyncio.TaskGroup() as tasks,
        ):
            log.info("ready")
            tasks.create_task(creation.run(stop))
            tasks.create_task(relay.run(stop))
            tasks.create_task(relay.sweep(stop))
            tasks.create_task(loops.admission(stop, store))
            tasks.create_task(loops.watchdog(stop, store, nats))
            tasks.create_task(loops.housekeeping(stop, store, nats))
            tasks.create_task(
                nats.consume(
                    stop,
                    subjects.REPORTS,
                    subjects.REPORTS_CONSUMER,
                    subjects.REPORTS_OF_ALL_RUNNERS,
                    handlers.reports,
                )
            )


if __name__ == "__main__":
    service.run("scheduler", main)
