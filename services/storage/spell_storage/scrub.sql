-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('spell-storage-scrub'));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('spell-storage-scrub'));

-- name: bytes_of_all
SELECT coalesce(sum(size), 0)::bigint FROM objects;

-- name: objects_after
SELECT id, sha256, size, key FROM objects WHERE id > $1 ORDER BY id LIMIT $2;

-- name: objects
SELECT id, sha256, size, key FROM objects WHERE id = ANY($1::bigint[]) ORDER BY id;

-- name: damaged_of
-- Not those that were removed or put right in the meantime.
SELECT id FROM objects WHERE id = ANY($1::bigint[]) AND key IS NULL;

-- name: begun
-- A check that broke off, not long ago.
SELECT last_id, unreadable FROM scrub WHERE at > $1;

-- name: checked_before
SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes FROM objects
WHERE id <= $1 AND NOT id = ANY($2::bigint[]);

-- name: damaged_before
SELECT id FROM objects WHERE id <= $1 AND key IS NULL;

-- name: set_checked
INSERT INTO scrub (last_id, unreadable) VALUES ($1, $2)
ON CONFLICT (only_one) DO UPDATE SET last_id = excluded.last_id, unreadable = excluded.unreadable, at = now();

-- name: set_done
DELETE FROM scrub;

-- name: manifests_with
SELECT DISTINCT manifest_id FROM manifest_objects WHERE object_id = ANY($1::bigint[]);

-- name: called
-- A manifest, and what uploads it is.
SELECT manifests.owner_id, manifests.digest, uploads.name
FROM manifests
LEFT JOIN uploads ON uploads.owner_id = manifests.owner_id AND uploads.manifest = manifests.digest
WHERE manifests.id = $1 ORDER BY uploads.name;

-- name: bad_of
-- Objects that a manifest needs, and that are damaged, lost, or among those that cannot be read.
SELECT objects.id, objects.sha256, objects.size
FROM manifest_objects JOIN objects ON objects.id = manifest_objects.object_id
WHERE manifest_objects.manifest_id = $1 AND (objects.key IS NULL OR objects.id = ANY($2::bigint[]));

-- name: nameless
-- Those of some objects that no manifest needs.
SELECT id, sha256, size FROM objects
WHERE id = ANY($1::bigint[]) AND NOT EXISTS (SELECT FROM manifest_objects WHERE object_id = objects.id) ORDER BY id;

-- name: strays
-- Those of some keys, whose objects would have these digests, that are on no record.
SELECT key FROM unnest($1::text[], $2::text[]) AS asked (key, sha256)
WHERE NOT EXISTS (SELECT FROM objects WHERE objects.sha256 = asked.sha256 AND objects.key = asked.key)
AND NOT EXISTS (SELECT FROM loose WHERE loose.key = asked.key);

-- name: give_up
INSERT INTO loose (key, at) SELECT unnest($1::text[]), '-infinity' ON CONFLICT DO NOTHING;
