-- Each query takes the owner ($1) and a run id or null ($2), and gives a row per thing looked at:
-- `what` names it, `problem` is null when it is in order.

-- name: i1
SELECT 'run ' || t.run_id || ' version ' || t.version AS what,
  CASE WHEN t.kind = 'intent' AND t.before = t.after THEN NULL
       WHEN m.after IS NULL THEN coalesce(t.before, 'nothing') || ' to ' || t.after END AS problem
FROM transitions t LEFT JOIN legal_moves m ON m.before = coalesce(t.before, '') AND m.after = t.after
WHERE t.owner_id = $1 AND ($2::bigint IS NULL OR t.run_id = $2);

-- name: i2
SELECT 'run ' || r.id AS what,
  CASE WHEN r.state IN ('complete', 'stopped', 'killed', 'failed', 'interrupted') THEN
    CASE WHEN count(f.version) <> 1 THEN count(f.version) || ' final rows'
         WHEN max(f.version) <> r.version THEN 'rows after the final one' END
  WHEN count(f.version) > 0 THEN 'a final row, but the run is ' || r.state END AS problem
FROM runs r LEFT JOIN transitions f ON f.run_id = r.id
  AND f.after IN ('complete', 'stopped', 'killed', 'failed', 'interrupted')
WHERE r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2) GROUP BY r.id;

-- name: i3
SELECT 'run ' || r.id AS what,
  CASE WHEN count(t.*) <> r.version OR min(t.version) <> 1 OR max(t.version) <> r.version
    THEN count(t.*) || ' rows, version ' || r.version END AS problem
FROM runs r LEFT JOIN transitions t ON t.run_id = r.id
WHERE r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2) GROUP BY r.id;

-- name: i4
SELECT 'run ' || r.id AS what,
  CASE WHEN t.after IS DISTINCT FROM r.state THEN 'row says ' || r.state || ', log says ' || coalesce(t.after, 'nothing')
       WHEN t.intent IS DISTINCT FROM r.intent THEN 'row says ' || r.intent || ', log says ' || t.intent END AS problem
FROM runs r LEFT JOIN transitions t ON t.run_id = r.id AND t.version = r.version
WHERE r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2);

-- name: i5
SELECT 'run ' || t.run_id || ' version ' || t.version AS what,
  CASE WHEN o.run_id IS NULL THEN 'no message' END AS problem
FROM transitions t LEFT JOIN outbox o ON o.run_id = t.run_id AND o.version = t.version AND o.stream = 'EVENTS'
WHERE t.owner_id = $1 AND ($2::bigint IS NULL OR t.run_id = $2) AND t.at > clock_timestamp() - interval '6 days';

-- name: i6
SELECT 'run ' || o.run_id || ' version ' || o.version AS what,
  CASE WHEN o.created_at < clock_timestamp() - interval '30 seconds'
    THEN 'unpublished since ' || o.created_at END AS problem
FROM outbox o JOIN runs r ON r.id = o.run_id
WHERE o.published_at IS NULL AND r.owner_id = $1 AND ($2::bigint IS NULL OR o.run_id = $2);

-- name: newest
SELECT id FROM runs WHERE owner_id = $1 ORDER BY id DESC LIMIT $2;

-- name: i7
-- $2 is what the stream has: [[run id, version], …].
SELECT 'message ' || (m.told ->> 1) || ' of run ' || (m.told ->> 0) AS what,
  CASE WHEN t.run_id IS NULL THEN 'no such row' END AS problem
FROM jsonb_array_elements($2::jsonb) AS m(told) LEFT JOIN transitions t
  ON t.run_id = (m.told ->> 0)::bigint AND t.version = (m.told ->> 1)::int AND t.owner_id = $1;

-- name: i8
SELECT 'run ' || r.id AS what,
  CASE WHEN count(*) FILTER (WHERE h.fence = r.fence) > 1 THEN 'on ' || count(*) || ' machines'
       WHEN bool_or(h.fence > r.fence) THEN 'held under a later fence' END AS problem
FROM runs r JOIN (
  SELECT m.id AS machine_id, (e ->> 0)::bigint AS run_id, (e ->> 2)::bigint AS fence
  FROM machines m, jsonb_array_elements(m.held) AS e WHERE m.last_seen > clock_timestamp() - interval '30 seconds'
) AS h ON h.run_id = r.id
WHERE r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2)
  AND r.state IN ('building', 'mounting', 'running', 'saving', 'pushing') GROUP BY r.id;

-- name: i9
SELECT 'run ' || r.id || ' on machine ' || m.id AS what,
  CASE WHEN t.at < m.last_seen - interval '60 seconds' THEN r.state || ' since ' || t.at END AS problem
FROM machines m, jsonb_array_elements(m.held) AS e JOIN runs r ON r.id = (e ->> 0)::bigint
  JOIN transitions t ON t.run_id = r.id AND t.version = r.version
WHERE r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2)
  AND r.state IN ('complete', 'stopped', 'killed', 'failed', 'interrupted');

-- name: i10
SELECT 'machine ' || m.id AS what, CASE WHEN count(r.id) > m.slots
  THEN count(r.id) || ' runs on ' || m.slots || ' slots' END AS problem
FROM machines m LEFT JOIN runs r ON r.machine_id = m.id
  AND r.state IN ('building', 'mounting', 'running', 'saving', 'pushing')
WHERE $1::bigint IS NOT NULL AND $2::bigint IS NULL GROUP BY m.id;

-- name: i11
SELECT 'run ' || r.id AS what,
  CASE WHEN r.saved_files IS NULL THEN 'nothing is known of its files'
       WHEN r.saved_files > 0 AND r.manifest IS NULL THEN r.saved_files || ' files without a manifest' END AS problem
FROM runs r WHERE (r.state IN ('complete', 'stopped') OR (r.state = 'interrupted' AND r.saved_files IS NOT NULL)) AND r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2);

-- name: i12
SELECT 'run ' || r.id AS what, CASE WHEN r.manifest IS NOT NULL THEN 'manifest ' || r.manifest END AS problem
FROM runs r WHERE (r.state = 'killed' OR (r.state = 'failed' AND coalesce(r.reason, '') NOT IN ('oom', 'disk_quota')))
  AND r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2);

-- name: i15
-- Replays the log: +1 where a run becomes active, -1 where it ends; at no admission above the limit in force then.
SELECT 'version ' || version || ' of run ' || run_id AS what,
  CASE WHEN level > (SELECT l.runs_max FROM limits l WHERE l.since <= at ORDER BY l.since DESC LIMIT 1)
    THEN level || ' runs at once' END AS problem
FROM (
  SELECT run_id, version, at, change, sum(change) OVER (ORDER BY at, change, run_id, version) AS level
  FROM (
    SELECT run_id, version, at, CASE WHEN before = 'requested' AND after = 'building' THEN 1
      WHEN after IN ('complete', 'stopped', 'killed', 'failed', 'interrupted') AND before <> 'requested' THEN -1
      ELSE 0 END AS change
    FROM transitions WHERE owner_id = $1 AND kind = 'moved'
  ) AS changes WHERE change <> 0
) AS levels WHERE change > 0 AND ($2::bigint IS NULL OR run_id = $2);

-- name: i16
SELECT 'run ' || id AS what, CASE WHEN created_at < earlier THEN 'created before run ' || previous END AS problem
FROM (
  SELECT id, created_at, lag(created_at) OVER (ORDER BY id) AS earlier, lag(id) OVER (ORDER BY id) AS previous
  FROM runs WHERE owner_id = $1
) AS ordered WHERE $2::bigint IS NULL OR id = $2;

-- name: i20
SELECT 'run ' || run_id || ' version ' || version AS what,
  CASE WHEN hardness < before THEN 'softened' END AS problem
FROM (
  SELECT run_id, version, hardness, lag(hardness) OVER (PARTITION BY run_id ORDER BY version) AS before
  FROM (
    SELECT run_id, version, CASE intent WHEN 'run' THEN 0 WHEN 'stop' THEN 1 ELSE 2 END AS hardness
    FROM transitions WHERE owner_id = $1 AND ($2::bigint IS NULL OR run_id = $2)
  ) AS ranked
) AS steps;

-- name: i21
SELECT 'run ' || r.id AS what,
  CASE WHEN r.ended_at < r.started_at THEN 'ended before it started'
       WHEN r.ended_at IS NULL AND r.state IN ('complete', 'stopped', 'killed', 'failed', 'interrupted')
         THEN 'final without an end' END AS problem
FROM runs r WHERE r.owner_id = $1 AND ($2::bigint IS NULL OR r.id = $2);
