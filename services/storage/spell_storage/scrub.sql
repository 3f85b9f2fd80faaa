-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('spell-storage-scrub'));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('spell-storage-scrub'));

-- name: bytes_of_all
SELECT coalesce(sum(size), 0)::bigint FROM objects;

-- name: objects_after
SELECT id, sha256, size, key FROM objects WHERE id > $1 ORDER BY id LIMIT $2;

-- name: damaged_of
-- Not those that were removed or put right in the meantime.
SELECT id, sha256, size FROM objects WHERE id = ANY($1::bigint[]) AND key IS NULL ORDER BY id;

-- name: needed_by
-- Manifests that need an object, and what uploads they are.
SELECT manifests.owner_id, manifests.digest, uploads.name
FROM manifest_objects JOIN manifests ON manifests.id = manifest_objects.manifest_id
LEFT JOIN uploads ON uploads.owner_id = manifests.owner_id AND uploads.manifest = manifests.digest
WHERE manifest_objects.object_id = $1 ORDER BY manifests.id LIMIT $2;

-- name: strays
-- Those of some keys, whose objects would have these digests, that are on no record.
SELECT key FROM unnest($1::text[], $2::text[]) AS asked (key, sha256)
WHERE NOT EXISTS (SELECT FROM objects WHERE objects.sha256 = asked.sha256 AND objects.key = asked.key)
AND NOT EXISTS (SELECT FROM loose WHERE loose.key = asked.key);

-- name: give_up
INSERT INTO loose (key, at) SELECT unnest($1::text[]), '-infinity' ON CONFLICT DO NOTHING;
