"""What is asked often stays cheap however many runs there have been."""

import pytest

from spell_proto import database
from spell_scheduler import runs
from support import stack

pytestmark = pytest.mark.integration


async def test_which_manifests_are_in_use_is_said_without_looking_at_all_runs():
    async with (
        stack.postgres() as cluster,
        database.pool(cluster.url("scheduler"), "scheduler") as pool,
    ):
        await database.migrate(pool, "scheduler", "spell_scheduler")
        await pool.execute(
            """
            INSERT INTO runs (id, owner_id, creator, spec, machine_type, needs, labels, created_at, state, intent,
                version, attempt, fence, spot, steps, manifest, idempotency_key, request_sha256)
            SELECT n, n % 50, 'x', '{"mounts": [], "command": "x"}', 'CPU', '', '{}', now(), 'complete', 'run',
                3, 1, n, false, 3, md5(n::text) || md5(n::text), n::text, '' FROM generate_series(1, 20000) AS n
            """
        )
        await pool.execute("ANALYZE runs")

        plan = await pool.fetch("EXPLAIN " + runs.SQL["manifests_in_use"], 1, ["a" * 64])

        assert "Seq Scan on runs" not in "\n".join(row[0] for row in plan)
