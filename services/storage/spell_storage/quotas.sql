-- name: use
-- Contents of an owner's manifests that something names, each once: reads all lines of all of them.
WITH kept AS (
    SELECT DISTINCT manifest_objects.object_id
    FROM manifests JOIN manifest_objects ON manifest_objects.manifest_id = manifests.id
    WHERE manifests.owner_id = $1 AND manifests.unnamed_since IS NULL
)
SELECT count(*) AS files, coalesce(sum(objects.size), 0)::bigint AS bytes
FROM kept JOIN objects ON objects.id = kept.object_id
WHERE NOT EXISTS (
    SELECT FROM manifests WHERE manifests.owner_id = $1 AND manifests.digest = objects.sha256
);

-- name: added_up
SELECT files, bytes FROM owner_use WHERE owner_id = $1 AND at > $2;

-- name: add_up
INSERT INTO owner_use (owner_id, files, bytes) VALUES ($1, $2, $3)
ON CONFLICT (owner_id) DO UPDATE SET files = excluded.files, bytes = excluded.bytes, at = now();

-- name: add_to_it
UPDATE owner_use SET files = files + $2, bytes = bytes + $3 WHERE owner_id = $1;

-- name: forget_it
DELETE FROM owner_use WHERE owner_id = $1;

-- name: is_counted
SELECT EXISTS (SELECT FROM manifests WHERE owner_id = $1 AND digest = $2 AND unnamed_since IS NULL);

-- name: added
-- Contents of the manifest $2 that are in none of its owner's other ones that count.
SELECT count(*) AS files, coalesce(sum(objects.size), 0)::bigint AS bytes
FROM manifest_objects AS mine JOIN objects ON objects.id = mine.object_id
WHERE mine.manifest_id = $2 AND NOT EXISTS (
    SELECT FROM manifest_objects AS others JOIN manifests ON manifests.id = others.manifest_id
    WHERE others.object_id = mine.object_id AND manifests.owner_id = $1
    AND manifests.unnamed_since IS NULL AND manifests.id <> $2
) AND NOT EXISTS (
    SELECT FROM manifests WHERE manifests.owner_id = $1 AND manifests.digest = objects.sha256
);

-- name: lock_owner
-- Two saves of one owner must not both take the last of his room.
SELECT pg_advisory_xact_lock(hashtext('spell-files-of-' || $1::bigint));

-- name: maybe_unnamed
SELECT id, digest, stored_at > $2 AS young FROM manifests
WHERE owner_id = $1 AND unnamed_since IS NULL AND NOT EXISTS (
    SELECT FROM named_manifests AS named WHERE named.owner_id = $1 AND named.digest = manifests.digest
);

-- name: set_unnamed
UPDATE manifests SET unnamed_since = now() WHERE id = ANY($1::bigint[]) AND unnamed_since IS NULL;
