-- name: find
-- What an equal request became the last time, and how many seconds ago.
SELECT requests.key, requests.framework, environments.resolved, environments.interpreter,
    extract(epoch FROM now() - requests.resolved_at)::float8 AS age_seconds
FROM requests
JOIN environments USING (key)
WHERE requests.digest = $1;

-- name: by_key
-- What an environment is made from.
SELECT key, NULL AS framework, resolved, interpreter, 0::float8 AS age_seconds FROM environments WHERE key = $1;

-- name: remember
-- A request has been resolved just now.
WITH environment AS (
    INSERT INTO environments (key, resolved, interpreter) VALUES ($2, $3, $4)
    ON CONFLICT (key) DO UPDATE SET interpreter = excluded.interpreter WHERE environments.interpreter IS NULL
)
INSERT INTO requests (digest, key, framework, resolved_at) VALUES ($1, $2, $5, now())
ON CONFLICT (digest) DO UPDATE SET key = excluded.key, framework = excluded.framework, resolved_at = excluded.resolved_at;

-- name: built
-- An environment has been built, with this content. Gives the digests of other contents that its key has had.
WITH environment AS (
    INSERT INTO environments (key, resolved, interpreter, built_at, build_seconds) VALUES ($1, $4, $5, now(), $3)
    ON CONFLICT (key) DO UPDATE SET built_at = now(), build_seconds = $3, bytes = NULL,
        interpreter = coalesce(environments.interpreter, excluded.interpreter)
), content AS (
    INSERT INTO contents (key, digest) VALUES ($1, $2) ON CONFLICT (key, digest) DO NOTHING
)
SELECT digest FROM contents WHERE key = $1 AND digest <> $2;

-- name: image
-- The image of an environment, as it was built the last time, and the digests of the contents that the key has had.
SELECT environments.image, array(SELECT digest FROM contents WHERE contents.key = environments.key) AS contents
FROM environments WHERE environments.key = $1;

-- name: imaged
-- An environment is an image from now on, on top of that of another one.
WITH content AS (
    INSERT INTO contents (key, digest) VALUES ($1, $4) ON CONFLICT (key, digest) DO NOTHING
)
UPDATE environments
SET image = $2, below = coalesce($3, below), built_at = coalesce(built_at, now())
WHERE key = $1;

-- name: contents
-- The digests of every content that a key has had, of one key or of all.
SELECT key, array_agg(digest ORDER BY recorded_at) AS digests
FROM contents
WHERE $1::text IS NULL OR key = $1
GROUP BY key
ORDER BY key;

-- name: use
-- A run uses an environment from now on, until it is over.
INSERT INTO uses (run_id, key, reused, resolved_at)
VALUES ($1, $2, $4, (SELECT resolved_at FROM requests WHERE digest = $3))
ON CONFLICT (run_id) DO UPDATE SET key = excluded.key, used_at = now(), over = false;

-- name: uses
-- What runs have used.
SELECT run_id, key, reused, resolved_at FROM uses WHERE run_id = ANY ($1::bigint[]);

-- name: active_uses
-- Whether a run that is not over uses an environment.
SELECT EXISTS (SELECT 1 FROM uses WHERE key = $1 AND NOT over);

-- name: not_over
-- Runs that had not ended the last time somebody asked.
SELECT run_id FROM uses WHERE NOT over ORDER BY run_id LIMIT $1;

-- name: over
-- Runs that have ended.
UPDATE uses SET over = true WHERE run_id = ANY ($1::bigint[]);

-- name: inventory
-- Every environment that was ever resolved, with who uses it.
SELECT environments.*, used.used_at, coalesce(used.runs, 0) AS runs, coalesce(used.active, '{}') AS active
FROM environments
LEFT JOIN (
    SELECT key, max(used_at) AS used_at, count(*) AS runs, array_agg(run_id) FILTER (WHERE NOT over) AS active
    FROM uses GROUP BY key
) AS used USING (key);

-- name: size
-- How much room an environment takes.
UPDATE environments SET bytes = $2 WHERE key = $1;
