-- name: find
-- What an equal request became the last time, and how many seconds ago.
SELECT requests.key, environments.resolved, environments.interpreter,
    extract(epoch FROM now() - requests.resolved_at)::float8 AS age_seconds
FROM requests
JOIN environments USING (key)
WHERE requests.digest = $1;

-- name: remember
-- A request has been resolved just now.
WITH environment AS (
    INSERT INTO environments (key, resolved, interpreter) VALUES ($2, $3, $4)
    ON CONFLICT (key) DO UPDATE SET interpreter = excluded.interpreter WHERE environments.interpreter IS NULL
)
INSERT INTO requests (digest, key, resolved_at) VALUES ($1, $2, now())
ON CONFLICT (digest) DO UPDATE SET key = excluded.key, resolved_at = excluded.resolved_at;

-- name: built
-- An environment has been built, with this content. Gives the digests of other contents that its key has had.
WITH environment AS (
    UPDATE environments SET built_at = now(), build_seconds = $3 WHERE key = $1
), content AS (
    INSERT INTO contents (key, digest) VALUES ($1, $2) ON CONFLICT (key, digest) DO NOTHING
)
SELECT digest FROM contents WHERE key = $1 AND digest <> $2;

-- name: contents
-- The digests of every content that a key has had, of one key or of all.
SELECT key, array_agg(digest ORDER BY recorded_at) AS digests
FROM contents
WHERE $1::text IS NULL OR key = $1
GROUP BY key
ORDER BY key;
