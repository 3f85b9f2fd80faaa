-- name: known_blobs
SELECT sha256, size FROM blobs WHERE owner_id = $1 AND sha256 = ANY($2::text[]);

-- name: add_blob
-- Not flushed: a row that a power cut takes is sent again, and the flush of a manifest takes all rows before it along.
INSERT INTO blobs (owner_id, sha256, size)
SELECT $1, $2, $3 FROM set_config('synchronous_commit', 'off', true)
ON CONFLICT DO NOTHING;

-- name: add_manifest_blob
INSERT INTO blobs (owner_id, sha256, size) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: blob_size
SELECT size FROM blobs WHERE owner_id = $1 AND sha256 = $2;

-- name: add_manifest
INSERT INTO manifests (owner_id, digest, files, bytes) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: has_manifest
SELECT EXISTS (SELECT FROM manifests WHERE owner_id = $1 AND digest = $2);
