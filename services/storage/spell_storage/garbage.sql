-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('spell-storage-garbage'));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('spell-storage-garbage'));

-- name: unlisted_manifests
SELECT id, owner_id, digest FROM manifests WHERE NOT listed ORDER BY id;

-- name: set_listed
UPDATE manifests SET listed = true WHERE id = $1;

-- name: list_digests
-- The lines of a manifest that was stored before there were any.
INSERT INTO manifest_objects (manifest_id, object_id)
SELECT $1, id FROM objects WHERE sha256 = ANY($2::text[]) ON CONFLICT DO NOTHING;

-- name: manifests_after
-- Manifests that storage itself does not name, a portion at a time, owner by owner.
SELECT id, owner_id, digest FROM manifests
WHERE (owner_id, digest) > ($1::bigint, $2::text) AND NOT EXISTS (
    SELECT FROM named_manifests AS named
    WHERE named.owner_id = manifests.owner_id AND named.digest = manifests.digest
) ORDER BY owner_id, digest LIMIT $3;

-- name: set_named
UPDATE manifests SET unnamed_since = NULL WHERE unnamed_since IS NOT NULL
AND (id = ANY($1::bigint[]) OR EXISTS (
    SELECT FROM named_manifests AS named
    WHERE named.owner_id = manifests.owner_id AND named.digest = manifests.digest
)) RETURNING owner_id;

-- name: set_unnamed
-- What was stored a moment ago is about to be named, and counts until then.
UPDATE manifests SET unnamed_since = $2 WHERE id = ANY($1::bigint[]) AND unnamed_since IS NULL AND stored_at < $3
RETURNING owner_id;

-- name: lock_manifests
-- Who is about to name one has it: it stays.
SELECT id FROM manifests WHERE id = ANY($1::bigint[]) AND unnamed_since < $2 ORDER BY id FOR UPDATE SKIP LOCKED;

-- name: remove_manifests
-- Under their locks, and with what was committed until they were got.
DELETE FROM manifests WHERE id = ANY($1::bigint[]) AND NOT EXISTS (
    SELECT FROM named_manifests AS named
    WHERE named.owner_id = manifests.owner_id AND named.digest = manifests.digest
) RETURNING id;

-- name: blobs_after
-- The last of a portion of blobs, and those among them that seem to be needed by none of their owner's manifests.
WITH portion AS (
    SELECT owner_id, sha256, used_at FROM blobs WHERE (owner_id, sha256) > ($1::bigint, $2::text)
    ORDER BY owner_id, sha256 LIMIT $4
)
SELECT owner_id, sha256, used_at < $3 AND NOT EXISTS (
    SELECT FROM manifest_objects
    JOIN manifests ON manifests.id = manifest_objects.manifest_id
    JOIN objects ON objects.id = manifest_objects.object_id
    WHERE objects.sha256 = portion.sha256 AND manifests.owner_id = portion.owner_id
) AND NOT EXISTS (
    SELECT FROM awaited_blobs AS awaited
    WHERE awaited.owner_id = portion.owner_id AND awaited.sha256 = portion.sha256
) AND NOT EXISTS (
    SELECT FROM manifests WHERE manifests.owner_id = portion.owner_id AND NOT listed
) AS unneeded
FROM portion ORDER BY owner_id, sha256;

-- name: lock_blobs
SELECT blobs.owner_id, blobs.sha256
FROM blobs JOIN unnest($1::bigint[], $2::text[]) AS asked (owner_id, sha256) USING (owner_id, sha256)
WHERE blobs.used_at < $3 ORDER BY 1, 2 FOR UPDATE OF blobs SKIP LOCKED;

-- name: remove_blobs
DELETE FROM blobs USING unnest($1::bigint[], $2::text[]) AS asked (owner_id, sha256)
WHERE blobs.owner_id = asked.owner_id AND blobs.sha256 = asked.sha256 AND NOT EXISTS (
    SELECT FROM manifest_objects
    JOIN manifests ON manifests.id = manifest_objects.manifest_id
    JOIN objects ON objects.id = manifest_objects.object_id
    WHERE objects.sha256 = blobs.sha256 AND manifests.owner_id = blobs.owner_id
) AND NOT EXISTS (
    SELECT FROM awaited_blobs AS awaited
    WHERE awaited.owner_id = blobs.owner_id AND awaited.sha256 = blobs.sha256
) RETURNING blobs.sha256;

-- name: objects_after
-- The last of a portion of objects, and those among them that nobody seems to have.
WITH portion AS (SELECT id, sha256, used_at FROM objects WHERE id > $1 ORDER BY id LIMIT $3)
SELECT id, used_at < $2 AND NOT EXISTS (SELECT FROM blobs WHERE blobs.sha256 = portion.sha256) AS unneeded
FROM portion ORDER BY id;

-- name: lock_objects
SELECT id FROM objects WHERE id = ANY($1::bigint[]) AND used_at < $2 ORDER BY id FOR UPDATE SKIP LOCKED;

-- name: remove_objects
-- Their bytes are to be removed; how many bytes that are.
WITH gone AS (
    DELETE FROM objects WHERE id = ANY($1::bigint[])
    AND NOT EXISTS (SELECT FROM blobs WHERE blobs.sha256 = objects.sha256)
    RETURNING key, size
), given_up AS (
    INSERT INTO loose (key, at) SELECT key, '-infinity' FROM gone WHERE key IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET at = '-infinity'
)
SELECT count(*) AS objects, coalesce(sum(size) FILTER (WHERE key IS NOT NULL), 0)::bigint AS bytes FROM gone;

-- name: give_up_old
-- Of puts that nobody goes on with. What an object had is read again first.
UPDATE loose SET at = '-infinity' WHERE at > '-infinity' AND at < $1 AND sha256 IS NULL;

-- name: given_up
SELECT key FROM loose WHERE key > $1 AND at = '-infinity' ORDER BY key LIMIT $2;

-- name: forget_keys
DELETE FROM loose WHERE key = ANY($1::text[]) AND at = '-infinity';
