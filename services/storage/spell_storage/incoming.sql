-- name: announced
-- What all uploads of an owner that are not complete will be, as far as their files were begun, besides one file of one
-- of them, or several, or, without paths, all of that upload.
SELECT count(*) AS files, coalesce(sum(f.length), 0)::bigint AS bytes
FROM uploads u JOIN upload_files f ON f.upload_id = u.id
WHERE u.owner_id = $1 AND u.manifest IS NULL
    AND NOT (u.id = $2 AND ($3::text[] IS NULL OR f.path = ANY($3::text[])));

-- name: add_file
INSERT INTO upload_files (upload_id, path, length, announced)
SELECT id, $3, $4, $5 FROM uploads WHERE id = $1 AND owner_id = $2 AND manifest IS NULL
ON CONFLICT (upload_id, path) DO NOTHING;

-- name: add_whole
-- A file whose bytes are a blob already. Not flushed: a row that a power cut takes is sent again.
INSERT INTO upload_files (upload_id, path, length, received, announced, sha256)
SELECT id, $3, $4, $4, $5, $5 FROM uploads, set_config('synchronous_commit', 'off', true)
WHERE id = $1 AND owner_id = $2 AND manifest IS NULL
ON CONFLICT (upload_id, path) DO UPDATE SET received = excluded.length, sha256 = excluded.sha256
    WHERE upload_files.length = excluded.length AND upload_files.announced = excluded.announced
RETURNING id, upload_id, false AS compressed, path, length, received, announced, sha256;

-- name: add_pack
-- The same of many files, which are called as their digests are. Whether their upload waits for files.
WITH open AS (
    SELECT id FROM uploads, set_config('synchronous_commit', 'off', true)
    WHERE id = $1 AND owner_id = $2 AND manifest IS NULL
), added AS (
    INSERT INTO upload_files (upload_id, path, length, received, announced, sha256)
    SELECT open.id, digest, size, size, digest, digest
    FROM open, unnest($3::text[], $4::bigint[]) AS given (digest, size) ORDER BY digest
    ON CONFLICT (upload_id, path) DO UPDATE SET received = excluded.length, sha256 = excluded.sha256
        WHERE upload_files.length = excluded.length AND upload_files.announced = excluded.announced
), used AS (
    UPDATE uploads SET used_at = now() FROM open
    WHERE uploads.id = open.id AND uploads.used_at < now() - interval '1 minute'
)
SELECT id FROM open;

-- name: file_at
SELECT f.id, f.upload_id, u.compressed, f.path, f.length, f.received, f.announced, f.sha256
FROM upload_files f JOIN uploads u ON u.id = f.upload_id
WHERE u.id = $1 AND u.owner_id = $2 AND f.path = $3;

-- name: file
SELECT f.id, f.upload_id, u.compressed, f.path, f.length, f.received, f.announced, f.sha256
FROM upload_files f JOIN uploads u ON u.id = f.upload_id
WHERE u.id = $1 AND u.owner_id = $2 AND f.id = $3;

-- name: files
SELECT f.id, f.upload_id, u.compressed, f.path, f.length, f.received, f.announced, f.sha256
FROM upload_files f JOIN uploads u ON u.id = f.upload_id
WHERE u.id = $1 AND u.owner_id = $2 ORDER BY f.path COLLATE "C";

-- name: add_part
-- At most one of several requests that go on from the same offset adds its part.
WITH moved AS (
    UPDATE upload_files SET received = received + $3::integer
    WHERE id = $1 AND received = $2 AND sha256 IS NULL AND received + $3::integer <= length
    RETURNING id, upload_id
), used AS (
    UPDATE uploads SET used_at = now() FROM moved
    WHERE uploads.id = moved.upload_id AND used_at < now() - interval '1 minute'
)
INSERT INTO upload_parts (file_id, start_offset, length, object_key)
SELECT id, $2, $3::integer, $4 FROM moved RETURNING file_id;

-- name: parts
SELECT object_key, length FROM upload_parts WHERE file_id = $1 ORDER BY start_offset;

-- name: finish
WITH gone AS (DELETE FROM upload_parts WHERE file_id = $1)
UPDATE upload_files SET sha256 = $2, received = length WHERE id = $1 RETURNING id;

-- name: begin_again
WITH gone AS (DELETE FROM upload_parts WHERE file_id = $1)
UPDATE upload_files SET received = 0 WHERE id = $1 AND sha256 IS NULL;

-- name: forget_blob
UPDATE upload_files SET received = 0, sha256 = NULL WHERE id = $1 AND sha256 = $2;

-- name: set_file
UPDATE upload_files SET length = $2, announced = $3 WHERE id = $1 AND received = 0;

-- name: announce
UPDATE upload_files SET announced = $2 WHERE id = $1 AND announced IS NULL;

-- name: remove_file
DELETE FROM upload_files WHERE id = $1;

-- name: known_parts
SELECT object_key FROM upload_parts WHERE object_key = ANY($1::text[]);

-- name: remove_abandoned
DELETE FROM uploads WHERE manifest IS NULL AND used_at < $1 RETURNING id;

-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('spell-storage-uploads'));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('spell-storage-uploads'));
