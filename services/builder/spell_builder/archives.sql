-- name: find
-- The archive of an environment, if it is stored. With $2, somebody goes to fetch it.
UPDATE archives SET asked_at = CASE WHEN $2 THEN now() ELSE asked_at END
WHERE digest = (
    SELECT digest FROM archives
    WHERE key = $1 AND packed_at IS NOT NULL AND removed_at IS NULL
    ORDER BY packed_at DESC LIMIT 1
)
RETURNING digest, content, path, size;

-- name: begin
-- An archive is about to be sent.
INSERT INTO archives (digest, key, content, path, size) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (digest) DO UPDATE SET begun_at = now(), packed_at = NULL, removed_at = NULL;

-- name: stored
-- An archive is there, whole; nobody is told of others of its environment any more.
WITH others AS (
    UPDATE archives SET removed_at = now()
    WHERE key = $2 AND digest <> $1 AND packed_at IS NOT NULL AND removed_at IS NULL
)
UPDATE archives SET packed_at = now() WHERE digest = $1;

-- name: remove
-- Nobody is told of these any more.
UPDATE archives SET removed_at = now() WHERE key = ANY ($1::text[]) AND removed_at IS NULL;

-- name: remove_damaged
UPDATE archives SET removed_at = now() WHERE digest = $1 AND removed_at IS NULL;

-- name: spare
-- What nobody can be fetching any more, and what was never sent to its end.
SELECT digest FROM archives
WHERE greatest(removed_at, asked_at) < now() - make_interval(secs => $1) AND removed_at IS NOT NULL
    OR packed_at IS NULL AND begun_at < now() - make_interval(secs => $2)
LIMIT 1000;

-- name: lock_spare
-- The same, of one of them. Nobody sends or fetches it while it is removed.
SELECT digest FROM archives
WHERE digest = $3 AND (
    greatest(removed_at, asked_at) < now() - make_interval(secs => $1) AND removed_at IS NOT NULL
    OR packed_at IS NULL AND begun_at < now() - make_interval(secs => $2)
)
FOR UPDATE SKIP LOCKED;

-- name: delete
DELETE FROM archives WHERE digest = $1;

-- name: kept
-- What the archives that somebody may be told of take, by environment.
SELECT key, sum(size)::bigint AS size FROM archives WHERE removed_at IS NULL GROUP BY key;
