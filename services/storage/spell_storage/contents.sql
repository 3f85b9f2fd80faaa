-- name: quarantine
-- The bytes under this key are not the object's, or seem not to be: it is missing from now on. They are looked at again.
WITH found AS (
    UPDATE objects SET key = NULL, sums = NULL WHERE sha256 = $1 AND key = $2 RETURNING sha256
)
INSERT INTO loose (key, sha256) SELECT $2, sha256 FROM found ON CONFLICT DO NOTHING RETURNING key;

-- name: set_sums
UPDATE objects SET sums = $3 WHERE sha256 = $1 AND key = $2 AND sums IS DISTINCT FROM $3;

-- name: sums_of
SELECT sums FROM objects WHERE sha256 = $1 AND key = $2;

-- name: give_up_unwanted
-- Somebody has sent the bytes again, or nobody needs them any more.
UPDATE loose SET at = '-infinity', sha256 = NULL WHERE sha256 IS NOT NULL
AND NOT EXISTS (SELECT FROM objects WHERE objects.sha256 = loose.sha256 AND objects.key IS NULL);

-- name: suspects_after
SELECT loose.key, loose.sha256, loose.at, objects.size FROM loose JOIN objects USING (sha256)
WHERE loose.key > $1 AND loose.sha256 IS NOT NULL AND loose.at > '-infinity' ORDER BY loose.key LIMIT $2;

-- name: put_back
-- The bytes under this key are whole after all.
WITH held AS (
    SELECT key, sha256 FROM loose WHERE key = $2 AND sha256 = $1 AND at > '-infinity' FOR UPDATE
), back AS (
    UPDATE objects SET key = held.key, sums = $3, used_at = now() FROM held
    WHERE objects.sha256 = held.sha256 AND objects.key IS NULL RETURNING objects.key
)
DELETE FROM loose USING back WHERE loose.key = back.key RETURNING loose.key;

-- name: give_up_other
UPDATE loose SET at = '-infinity', sha256 = NULL WHERE key = $1 AND sha256 IS NOT NULL;
