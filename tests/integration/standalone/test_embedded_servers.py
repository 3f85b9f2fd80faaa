"""The embedded Postgres and NATS: they start anywhere, keep what they were told, and keep users apart."""

import asyncpg
import pytest
from nats import connect as connect_to_nats

from spell_proto import bus, subjects
from support import stack

pytestmark = pytest.mark.integration


async def test_each_service_owns_its_schema_and_sees_no_other(postgres):
    scheduler = await asyncpg.connect(postgres.url("scheduler"))
    builder = await asyncpg.connect(postgres.url("builder"))
    try:
        await scheduler.execute("CREATE TABLE scheduler.secret_of_scheduler (x int)")

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await builder.fetch("SELECT * FROM scheduler.secret_of_scheduler")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await builder.execute("CREATE TABLE public.shared (x int)")
    finally:
        await scheduler.execute("DROP TABLE IF EXISTS scheduler.secret_of_scheduler")
        await scheduler.close()
        await builder.close()


async def test_a_wrong_password_is_refused(postgres):
    url = postgres.url("builder").replace(postgres.passwords["builder"], "x" * 32)

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url)


async def test_postgres_keeps_committed_rows_over_kill_9_and_new_passwords_take_effect():
    async with stack.postgres() as cluster:
        connection = await asyncpg.connect(cluster.url("storage"))
        await connection.execute("CREATE TABLE storage.kept (x int)")
        await connection.execute("INSERT INTO storage.kept VALUES (7)")
        cluster.kill9()
        cluster.passwords["storage"] = "b" * 32
        await cluster.initialise()
        await cluster.restart()

        again = await asyncpg.connect(cluster.url("storage"))
        value = await again.fetchval("SELECT x FROM storage.kept")

        await again.close()
        assert value == 7


async def test_a_stale_lock_file_with_the_number_of_a_living_process_does_not_stop_postgres():
    async with stack.postgres() as cluster:
        cluster.kill9()
        lock = cluster.data / "postmaster.pid"
        lines = lock.read_text().splitlines()
        lock.write_text("\n".join(["1", *lines[1:]]) + "\n")

        await cluster.restart()

        connection = await asyncpg.connect(cluster.url("gateway"))
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_a_runner_speaks_about_its_own_machine_only(nats):
    async with bus.connect(nats.service_url, "scheduler") as service:
        await service.ensure_streams()
        async with bus.connect(nats.runner_url("m1"), "runner") as runner:
            await runner.store(subjects.report("m1", 1), b"{}", message_id="own", stream=subjects.REPORTS)

            with pytest.raises(TimeoutError):
                await runner.client.jetstream(timeout=0.5).publish(subjects.report("m2", 1), b"{}")


async def test_a_subscriber_reads_facts_and_can_publish_none(nats):
    async with bus.connect(nats.service_url, "scheduler") as service:
        await service.ensure_streams()
        await service.store(
            subjects.event(424_242, "moved"), b'{"x":1}', message_id="424242:1", stream=subjects.EVENTS
        )
        client = await connect_to_nats(nats.subscriber_url, error_cb=_ignore)
        try:
            subscription = await client.jetstream().subscribe(
                subjects.events_of_run(424_242), ordered_consumer=True
            )
            message = await subscription.next_msg(timeout=5)

            assert message.data == b'{"x":1}'
            with pytest.raises(TimeoutError):
                await client.jetstream(timeout=0.5).publish(subjects.event(424_242, "moved"), b"{}")
        finally:
            await client.close()


async def _ignore(_error: Exception) -> None:
    pass
