-- name: find
-- What an equal request became the last time, and how many seconds ago.
SELECT requests.key, environments.resolved, extract(epoch FROM now() - requests.resolved_at)::float8 AS age_seconds
FROM requests
JOIN environments USING (key)
WHERE requests.digest = $1;

-- name: remember
-- A request has been resolved just now.
WITH environment AS (
    INSERT INTO environments (key, resolved) VALUES ($2, $3) ON CONFLICT (key) DO NOTHING
)
INSERT INTO requests (digest, key, resolved_at) VALUES ($1, $2, now())
ON CONFLICT (digest) DO UPDATE SET key = excluded.key, resolved_at = excluded.resolved_at;

-- name: built
-- An environment is ready.
UPDATE environments SET built_at = now(), build_seconds = $2 WHERE key = $1;
