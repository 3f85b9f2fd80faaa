-- name: take_admission_lock
-- Admission is decided by one transaction at a time, whichever copy of the scheduler runs it.
SELECT pg_advisory_xact_lock(7733001);

-- name: begin_create
-- Under the admission lock: the runs that the given idempotency keys already made, and ids for new ones.
SELECT clock_timestamp() AS now, ARRAY(SELECT nextval('run_ids') FROM generate_series(1, $2::int)) AS ids,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('owner_id', r.owner_id, 'key', r.idempotency_key,
            'id', r.id, 'request_sha256', r.request_sha256)), '[]')
     FROM runs r JOIN jsonb_to_recordset($1) AS k(owner_id bigint, key text)
       ON r.owner_id = k.owner_id AND r.idempotency_key = k.key) AS known;

-- name: run_of_key
SELECT id, request_sha256 FROM runs WHERE owner_id = $1 AND idempotency_key = $2;

-- name: insert_created
-- New runs, the first row of their log and its message, in one statement.
WITH made AS (
  INSERT INTO runs (id, owner_id, creator, idempotency_key, request_sha256, spec, machine_type, needs, repository,
    labels, created_at, state, intent, version, attempt, fence, spot, steps, timeout_seconds)
  SELECT n.id, n.owner_id, n.creator, n.idempotency_key, n.request_sha256, n.spec, n.machine_type, n.needs,
    n.repository, n.labels, n.created_at, 'requested', 'run', 1, 1, 0, false, 0, n.timeout_seconds
  FROM jsonb_to_recordset($1) AS n(id bigint, owner_id bigint, creator text, idempotency_key text,
    request_sha256 text, spec jsonb, machine_type text, needs text, repository text, labels text[], created_at timestamptz,
    timeout_seconds int)
), logged AS (
  INSERT INTO transitions (run_id, version, owner_id, kind, before, after, intent, attempt, fence, actor, reason,
    exit_code, at)
  SELECT run_id, version, owner_id, kind, before, after, intent, attempt, fence, actor, reason, exit_code, at
  FROM jsonb_populate_recordset(NULL::transitions, $2)
)
INSERT INTO outbox (run_id, version, stream, subject, payload)
SELECT run_id, version, stream, subject, convert_to(payload, 'UTF8')
FROM jsonb_to_recordset($3) AS o(run_id bigint, version int, stream text, subject text, payload text);

-- name: write_decided
-- Compare-and-set of decided runs on (version, fence), with the rows of their log and their messages. Returns the
-- ids that were as expected; nothing is written for the others.
WITH changed AS (
  UPDATE runs SET state = u.state, intent = u.intent, intent_reason = u.intent_reason, reason = u.reason,
    message = u.message, version = u.version, attempt = u.attempt, fence = u.fence, machine_id = u.machine_id,
    boot_id = u.boot_id, spot = u.spot, steps = u.steps, exit_code = u.exit_code, exit_cause = u.exit_cause,
    deadline = u.deadline, started_at = u.started_at, ended_at = u.ended_at, manifest = u.manifest,
    saved_files = u.saved_files, saved_bytes = u.saved_bytes, log = nullif(u.log, 'null'::jsonb),
    fetched = nullif(u.fetched, 'null'::jsonb), image = u.image,
    engine = u.engine, gpus = u.gpus, saves = u.saves, saves_met = u.saves_met, save_problem = u.save_problem,
    saved_changed = u.saved_changed, save_notes = u.save_notes
  FROM jsonb_to_recordset($1) AS u(id bigint, seen_version int, seen_fence bigint, state text, intent text,
    intent_reason text, reason text, message text, version int, attempt int, fence bigint, machine_id text,
    boot_id text, spot boolean, steps int, exit_code int, exit_cause text, deadline timestamptz,
    started_at timestamptz, ended_at timestamptz, manifest text, saved_files bigint, saved_bytes bigint, log jsonb,
    fetched jsonb, image text, engine text, gpus text[], saves int, saves_met int, save_problem text, saved_changed int,
    save_notes text[])
  WHERE runs.id = u.id AND runs.version = u.seen_version AND runs.fence = u.seen_fence
  RETURNING runs.id
), logged AS (
  INSERT INTO transitions (run_id, version, owner_id, kind, before, after, intent, attempt, fence, actor, reason,
    exit_code, at)
  SELECT t.run_id, t.version, t.owner_id, t.kind, t.before, t.after, t.intent, t.attempt, t.fence, t.actor,
    t.reason, t.exit_code, t.at
  FROM jsonb_populate_recordset(NULL::transitions, $2) AS t JOIN changed ON changed.id = t.run_id
), snapped AS (
  INSERT INTO snapshots (run_id, number, owner_id, attempt, asked, manifest, files, bytes, at, notes)
  SELECT s.run_id, s.number, s.owner_id, s.attempt, s.asked, s.manifest, s.files, s.bytes, s.at, s.notes
  FROM jsonb_populate_recordset(NULL::snapshots, $4) AS s JOIN changed ON changed.id = s.run_id
  ON CONFLICT DO NOTHING
), posted AS (
  INSERT INTO outbox (run_id, version, stream, subject, payload)
  SELECT o.run_id, o.version, o.stream, o.subject, convert_to(o.payload, 'UTF8')
  FROM jsonb_to_recordset($3) AS o(run_id bigint, version int, stream text, subject text, payload text)
    JOIN changed ON changed.id = o.run_id
)
SELECT id FROM changed;

-- name: lock_runs
-- The rows a decision is about, in one order for everybody, so that two handlers never wait for each other.
SELECT *, clock_timestamp() AS now FROM runs WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE;

-- name: free_machines
-- Machines that answered lately, with the slots that no run holds.
SELECT m.id, m.boot_id, m.spot, m.machine_type, m.engines, m.reclaimed,
  m.slots - (SELECT count(*) FROM runs r WHERE r.machine_id = m.id
    AND r.state IN ('building', 'mounting', 'running', 'saving', 'pushing'))::int AS free,
  clock_timestamp() AS now
FROM machines m WHERE m.last_seen > clock_timestamp() - make_interval(secs => $1);

-- name: queue_heads
-- The oldest queued runs of each owner that has any and is below its limit, at most $2 per owner, type and needs, of
-- those that the engines of a type ($4, separated by commas) can run; each with a fence for the case that it is
-- admitted.
-- The recursive part jumps from needs to needs and from owner to owner along the index, so a queue of 100,000 costs
-- what one of 100 does.
WITH RECURSIVE queue_owner AS (
  SELECT t.machine_type, t.engines, first.needs, first.owner_id
  FROM unnest($1::text[], $4::text[]) AS t(machine_type, engines), LATERAL (
    SELECT r.needs, r.owner_id FROM runs r WHERE r.state = 'requested' AND r.machine_type = t.machine_type
    ORDER BY r.needs, r.owner_id LIMIT 1
  ) AS first
  UNION ALL
  SELECT q.machine_type, q.engines, following.needs, following.owner_id FROM queue_owner q, LATERAL (
    SELECT r.needs, r.owner_id FROM runs r WHERE r.state = 'requested' AND r.machine_type = q.machine_type
      AND (r.needs, r.owner_id) > (q.needs, q.owner_id)
    ORDER BY r.needs, r.owner_id LIMIT 1
  ) AS following
), able AS (
  SELECT q.machine_type, q.needs, q.owner_id, $3::int - (SELECT count(*) FROM runs r
      WHERE r.owner_id = q.owner_id
        AND r.state IN ('building', 'mounting', 'running', 'saving', 'pushing'))::int AS owner_free
  FROM queue_owner q
  WHERE q.needs = '' OR string_to_array(q.needs, ',') && string_to_array(q.engines, ',')
)
SELECT head.*, able.owner_free, nextval('fences') AS fence_if_admitted, clock_timestamp() AS now FROM able, LATERAL (
  SELECT * FROM runs r WHERE r.state = 'requested' AND r.machine_type = able.machine_type
    AND r.needs = able.needs AND r.owner_id = able.owner_id ORDER BY r.id LIMIT least(able.owner_free, $2::int)
) AS head WHERE able.owner_free > 0;

-- name: anything_queued
SELECT EXISTS (SELECT 1 FROM runs WHERE state = 'requested');

-- name: next_fences
SELECT nextval('fences') AS fence FROM generate_series(1, $1::int);

-- name: get_run
SELECT r.*, coalesce(m.last_seen > clock_timestamp() - make_interval(secs => $3), false) AS machine_reachable
FROM runs r LEFT JOIN machines m ON m.id = r.machine_id WHERE r.id = $1 AND r.owner_id = $2;

-- name: snapshots_of_run
-- Notes of the newest alone: there may be thousands of snapshots.
SELECT run_id, number, owner_id, attempt, asked, manifest, files, bytes, at,
  CASE WHEN number > max(number) OVER () - 20 THEN notes ELSE '{}' END AS notes
FROM snapshots WHERE run_id = $1 AND owner_id = $2 ORDER BY number;

-- name: get_runs
SELECT r.*, coalesce(m.last_seen > clock_timestamp() - make_interval(secs => $2), false) AS machine_reachable
FROM runs r LEFT JOIN machines m ON m.id = r.machine_id WHERE r.id = ANY ($1::bigint[]);

-- name: list_runs
SELECT r.*, coalesce(m.last_seen > clock_timestamp() - make_interval(secs => $6), false) AS machine_reachable
FROM runs r LEFT JOIN machines m ON m.id = r.machine_id
WHERE r.owner_id = $1 AND r.archived_at IS NULL AND ($2::text[] IS NULL OR r.labels && $2) AND ($3::text IS NULL OR r.repository = $3)
  AND ($4::bigint IS NULL OR r.id < $4)
ORDER BY r.id DESC LIMIT $5;

-- name: archive
-- Under the locks of all of them: which of an owner's runs are archived now, were before, or have not ended ($3 are the
-- states of those that have).
WITH asked AS (
  SELECT id, archived_at, state FROM runs WHERE id = ANY ($2::bigint[]) AND owner_id = $1 ORDER BY id FOR UPDATE
), archived AS (
  UPDATE runs SET archived_at = clock_timestamp() FROM asked
  WHERE runs.id = asked.id AND asked.archived_at IS NULL AND asked.state = ANY ($3::text[])
)
SELECT id, CASE WHEN archived_at IS NOT NULL THEN 'already_archived' WHEN state = ANY ($3::text[]) THEN 'archived'
  ELSE 'active' END AS outcome
FROM asked;

-- name: active_runs
-- Those of some runs that have not ended.
SELECT id FROM runs WHERE id = ANY ($1::bigint[]) AND state <> ALL ($2::text[]);

-- name: commits_in_use
-- Those of an owner's commits that a run of his names, as its commit, its snapshot or what its URL turned out to be.
SELECT asked.name FROM unnest($2::text[]) AS asked(name)
WHERE asked.name IN (SELECT spec->'code'->>'commit' FROM runs WHERE owner_id = $1
  UNION ALL SELECT spec->'code'->>'snapshot' FROM runs WHERE owner_id = $1
  UNION ALL SELECT fetched->>'commit' FROM runs WHERE owner_id = $1);

-- name: manifests_in_use
-- Those of an owner's manifests that a run of his has made that is not archived, or that are snapshots of one, or that a
-- run of anybody mounts that has not ended. The states are written out, as the indexes have them.
SELECT asked.digest FROM unnest($2::text[]) AS asked(digest)
WHERE asked.digest IN (
    SELECT manifest FROM runs WHERE manifest = ANY ($2::text[]) AND owner_id = $1 AND archived_at IS NULL
  ) OR asked.digest IN (
    SELECT s.manifest FROM snapshots s JOIN runs r ON r.id = s.run_id
    WHERE s.owner_id = $1 AND s.manifest = ANY ($2::text[]) AND r.archived_at IS NULL
  ) OR asked.digest IN (
    SELECT mount->>'manifest' FROM (
      SELECT spec FROM runs WHERE state = 'requested'
      UNION ALL
      SELECT spec FROM runs WHERE state IN ('building', 'mounting', 'running', 'saving', 'pushing')
    ) AS going_on, jsonb_array_elements(spec->'mounts') AS mount
  );

-- name: manifests_let_go
-- Those of an owner's manifests that runs of his have made, or are snapshots of such, that are archived.
SELECT manifest AS digest FROM runs
WHERE manifest = ANY ($2::text[]) AND owner_id = $1 AND archived_at IS NOT NULL
UNION
SELECT s.manifest FROM snapshots s JOIN runs r ON r.id = s.run_id
WHERE s.owner_id = $1 AND s.manifest = ANY ($2::text[]) AND r.archived_at IS NOT NULL;

-- name: runs_with_manifest
-- Whose files some manifests are: runs of an owner that are not archived, and snapshots of them.
SELECT manifest, id, id::text AS name FROM runs
WHERE manifest = ANY ($2::text[]) AND owner_id = $1 AND archived_at IS NULL
UNION ALL
SELECT s.manifest, r.id, r.id || '@' || s.number FROM snapshots s JOIN runs r ON r.id = s.run_id
WHERE s.manifest = ANY ($2::text[]) AND s.owner_id = $1 AND r.archived_at IS NULL
ORDER BY id, name;

-- name: add_label
UPDATE runs SET labels = array_append(labels, $3) WHERE id = $1 AND owner_id = $2 AND NOT labels @> ARRAY[$3::text]
  AND cardinality(labels) < $4;

-- name: remove_label
UPDATE runs SET labels = array_remove(labels, $3) WHERE id = $1 AND owner_id = $2 AND labels @> ARRAY[$3::text];

-- name: run_log
SELECT t.*, r.machine_id FROM transitions t JOIN runs r ON r.id = t.run_id
WHERE t.run_id = $1 AND t.owner_id = $2 ORDER BY t.version;

-- name: log_after
-- Rows in commit order after a cursor; only of transactions below the oldest one still open, so none is skipped.
SELECT *, xid::text AS xid_text FROM transitions
WHERE owner_id = $1 AND (xid, run_id, version) > ($2::text::xid8, $3::bigint, $4::int)
  AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY xid, run_id, version LIMIT $5;

-- name: attempt_of_run
SELECT * FROM runs WHERE id = $1 AND attempt = $2 AND fence = $3
  AND state IN ('building', 'mounting', 'running', 'saving', 'pushing');

-- name: owner_summary
SELECT $2::int AS runs_max, count(*) FILTER (WHERE state IN ('building', 'mounting', 'running', 'saving', 'pushing'))::int AS active,
  count(*) FILTER (WHERE state = 'requested')::int AS queued, count(*)::int AS total
FROM runs WHERE owner_id = $1;

-- name: machine_types
-- Every type that ever was. What its runs get is what the machines give that answer; where none does, what they gave.
-- One that is about to be taken away answers for nothing any more.
SELECT m.machine_type, count(*) FILTER (WHERE m.answers)::int AS machines,
  coalesce(sum(m.slots) FILTER (WHERE m.answers), 0)::int AS slots,
  (SELECT count(*) FROM runs r JOIN machines o ON o.id = r.machine_id WHERE o.machine_type = m.machine_type
    AND r.state IN ('building', 'mounting', 'running', 'saving', 'pushing'))::int AS slots_used,
  ARRAY(SELECT DISTINCT unnest(o.engines) FROM machines o WHERE o.machine_type = m.machine_type
    AND o.last_seen > clock_timestamp() - make_interval(secs => $1) AND NOT o.reclaimed ORDER BY 1) AS engines,
  coalesce(min(m.gpus) FILTER (WHERE m.answers), min(m.gpus)) AS gpus,
  ARRAY(SELECT DISTINCT unnest(o.gpu_models) FROM machines o WHERE o.machine_type = m.machine_type
    AND (o.last_seen > clock_timestamp() - make_interval(secs => $1) AND NOT o.reclaimed OR NOT bool_or(m.answers))
    ORDER BY 1
  ) AS gpu_models,
  coalesce(min(nullif(m.run_bytes_max, 0)) FILTER (WHERE m.answers), 0) AS run_bytes_max,
  coalesce(min(nullif(m.run_files_max, 0)) FILTER (WHERE m.answers), 0) AS run_files_max
FROM (
  SELECT *, last_seen > clock_timestamp() - make_interval(secs => $1) AND NOT reclaimed AS answers FROM machines
) AS m
GROUP BY m.machine_type;

-- name: engines_of_types
-- What machines of some types can run commands with, each by itself or all together.
SELECT machine_type, array_agg(DISTINCT engine) AS engines
FROM machines, unnest(engines) AS engine WHERE machine_type = ANY ($1::text[]) GROUP BY machine_type;

-- name: seen_machine
-- A heartbeat. Says whether admission should look again: a machine that is new, back, or of another shape, or that
-- stays after all.
WITH old AS (SELECT * FROM machines WHERE id = $1)
INSERT INTO machines (id, boot_id, machine_type, slots, spot, isolation, held, engines, gpus, gpu_models,
  run_bytes_max, run_files_max, reclaimed, last_seen)
VALUES ($1, $2, $3, $4, $5, $6, $8, $9, $10, $11, $12, $13, $14, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET boot_id = $2, machine_type = $3, slots = $4, spot = $5, isolation = $6,
  held = $8, engines = $9, gpus = $10, gpu_models = $11, run_bytes_max = $12, run_files_max = $13,
  reclaimed = $14, last_seen = clock_timestamp()
RETURNING NOT EXISTS (SELECT 1 FROM old WHERE old.slots = $4 AND old.machine_type = $3 AND old.boot_id = $2
  AND old.engines = $9 AND old.reclaimed = $14 AND old.last_seen > clock_timestamp() - make_interval(secs => $7)) AS look_again;

-- name: attempts_on_machine
SELECT * FROM runs WHERE machine_id = $1 AND state IN ('building', 'mounting', 'running', 'saving', 'pushing')
ORDER BY id;

-- name: runs_on_lost_machines
SELECT r.id FROM runs r JOIN machines m ON m.id = r.machine_id
WHERE r.state IN ('building', 'mounting', 'running', 'saving', 'pushing')
  AND m.last_seen < clock_timestamp() - make_interval(secs => $1) ORDER BY r.id LIMIT 500;

-- name: expired_runs
SELECT id FROM runs WHERE state = 'running' AND deadline IS NOT NULL AND deadline <= clock_timestamp()
  AND intent = 'run' ORDER BY id LIMIT 500;

-- name: next_deadline
SELECT extract(epoch FROM min(deadline) - clock_timestamp())::float8 AS seconds FROM runs
WHERE state = 'running' AND deadline IS NOT NULL AND intent = 'run';

-- name: unpublished
-- Left behind by a relay that died, or waiting for the bus. Claimed row by row, so several relays share them.
SELECT run_id, version, stream, subject, payload, resend FROM outbox
WHERE published_at IS NULL AND created_at < clock_timestamp() - make_interval(secs => $1)
ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: mark_published
UPDATE outbox SET published_at = clock_timestamp()
FROM jsonb_to_recordset($1) AS d(run_id bigint, version int, stream text)
WHERE outbox.run_id = d.run_id AND outbox.version = d.version AND outbox.stream = d.stream;

-- name: forget_published
DELETE FROM outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM outbox
  WHERE published_at < clock_timestamp() - make_interval(days => $1) LIMIT 5000));

-- name: bury
INSERT INTO dead_letters (subject, problem, data) VALUES ($1, $2, $3);

-- name: forget_buried
-- The newest dead letters are enough to look at: a machine that only says nonsense must not fill the disk.
DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - $1;

-- name: note_limit
INSERT INTO limits (runs_max) SELECT $1::int
WHERE $1::int IS DISTINCT FROM (SELECT runs_max FROM limits ORDER BY since DESC LIMIT 1);

-- name: write_legal_moves
INSERT INTO legal_moves (before, after) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING;
