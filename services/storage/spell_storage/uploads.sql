-- name: begin
-- Made, or gone on with. A complete one is left as it is.
INSERT INTO uploads (owner_id, name, compressed) VALUES ($1, $2, $3)
ON CONFLICT (owner_id, name) DO UPDATE
    SET used_at = now(),
        compressed = CASE WHEN uploads.manifest IS NULL THEN excluded.compressed ELSE uploads.compressed END
RETURNING id, name, compressed, manifest, files, bytes, created_at, completed_at, xmax = 0 AS made;

-- name: open
SELECT count(*) FROM uploads WHERE owner_id = $1 AND manifest IS NULL;

-- name: lock_public
SELECT pg_advisory_xact_lock(hashtext('spell-public'));

-- name: public_clash
-- What is published above or below a name.
SELECT name FROM uploads
WHERE owner_id = $1 AND name <> $2 AND (starts_with(name, $2 || '/') OR starts_with($2, name || '/'))
ORDER BY name LIMIT 1;

-- name: one
SELECT id, name, compressed, manifest, files, bytes, created_at, completed_at
FROM uploads WHERE id = $1 AND owner_id = $2;

-- name: nearest
-- The complete one among several names that is the longest: at most one of what is above a path was published.
SELECT id, name, compressed, manifest, files, bytes, created_at, completed_at
FROM uploads WHERE owner_id = $1 AND name = ANY($2::text[]) AND manifest IS NOT NULL
ORDER BY length(name) DESC LIMIT 1;

-- name: all
SELECT id, name, compressed, manifest, files, bytes, created_at, completed_at
FROM uploads WHERE owner_id = $1 AND manifest IS NOT NULL ORDER BY name COLLATE "C";

-- name: complete
-- What it was sent is in blobs by now. Its manifest stays while it is held here, and is named from then on.
WITH held AS (
    SELECT digest FROM manifests WHERE owner_id = $2 AND digest = $3 FOR KEY SHARE
), named AS (
    UPDATE uploads SET manifest = digest, files = $4, bytes = $5, completed_at = now(), used_at = now()
    FROM held WHERE id = $1 AND owner_id = $2 AND manifest IS NULL
    RETURNING id, name, compressed, manifest, files, bytes, created_at, completed_at
), gone AS (
    DELETE FROM upload_files USING named WHERE upload_id = named.id
)
SELECT id, name, compressed, manifest, files, bytes, created_at, completed_at FROM named;

-- name: remove
-- Its manifest is not about to be named any more: it was.
WITH gone AS (
    DELETE FROM uploads WHERE owner_id = $1 AND name = $2 RETURNING id, manifest
), let_go AS (
    UPDATE manifests SET stored_at = '-infinity' FROM gone WHERE owner_id = $1 AND digest = gone.manifest
)
SELECT id, manifest IS NOT NULL AS complete FROM gone;
