-- name: use
-- Contents of an owner's manifests that something names, each once, without those of the manifest $2.
WITH kept AS (
    SELECT DISTINCT manifest_objects.object_id
    FROM manifests JOIN manifest_objects ON manifest_objects.manifest_id = manifests.id
    WHERE manifests.owner_id = $1 AND manifests.unnamed_since IS NULL AND manifests.id <> $2
)
SELECT count(*) AS files, coalesce(sum(objects.size), 0)::bigint AS bytes
FROM kept JOIN objects ON objects.id = kept.object_id
WHERE NOT EXISTS (
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
