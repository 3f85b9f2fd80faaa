-- name: known_blobs
-- Those of an owner's blobs that are here, each safe from being removed for a while: what was not used lately is locked,
-- which waits for a removal that is under way, and is used now.
WITH stale AS MATERIALIZED (
    SELECT sha256 FROM blobs WHERE owner_id = $1 AND sha256 = ANY($2::text[]) AND used_at < $3
), locked AS (
    SELECT sha256 FROM blobs WHERE owner_id = $1 AND sha256 IN (SELECT sha256 FROM stale)
    ORDER BY sha256 FOR NO KEY UPDATE
), used AS (
    UPDATE blobs SET used_at = now() FROM locked
    WHERE blobs.owner_id = $1 AND blobs.sha256 = locked.sha256
    RETURNING blobs.sha256
), known AS (
    SELECT sha256 FROM used
    UNION ALL
    SELECT sha256 FROM blobs WHERE owner_id = $1 AND sha256 = ANY($2::text[]) AND used_at >= $3
)
SELECT sha256, size, key FROM objects JOIN known USING (sha256) WHERE key IS NOT NULL;

-- name: known_looks
-- Which of some large files an owner may have, by their sizes and the checksums of their first MiB and two more. The bound
-- is that of the index `blobs_large`. What has no checksums may be any of them.
SELECT number FROM unnest($2::bigint[], $3::integer[], $4::integer[], $5::bytea[])
    WITH ORDINALITY AS asked (size, middle, last, sums, number)
WHERE EXISTS (
    SELECT FROM blobs JOIN objects USING (sha256)
    WHERE owner_id = $1 AND blobs.size = asked.size AND blobs.size > 1048576
      AND (objects.sums IS NULL OR asked.sums = substring(objects.sums FROM 1 FOR 4)
          || substring(objects.sums FROM 4 * middle + 1 FOR 4) || substring(objects.sums FROM 4 * last + 1 FOR 4))
);

-- name: begin_unnamed
-- Bytes are written whose key is known at their end: what a kill leaves of them is found by this one. Not flushed.
INSERT INTO loose (key) SELECT $1::text FROM set_config('synchronous_commit', 'off', true);

-- name: end_unnamed
DELETE FROM loose USING set_config('synchronous_commit', 'off', true) WHERE key = $1;

-- name: begin_puts
-- Which of some objects are here, safe from being removed for a while; for the others keys to put them under. Not flushed:
-- what a power cut takes of this is found by a check of the whole store.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::text[]) AS asked (sha256, key),
    set_config('synchronous_commit', 'off', true)
), locked AS MATERIALIZED (
    SELECT id FROM objects WHERE sha256 = ANY($1::text[]) AND key IS NOT NULL ORDER BY sha256 FOR NO KEY UPDATE
), here AS (
    UPDATE objects SET used_at = now() FROM locked WHERE objects.id = locked.id
    RETURNING objects.sha256, objects.size, objects.key
), begun AS (
    INSERT INTO loose (key) SELECT key FROM asked WHERE sha256 NOT IN (SELECT sha256 FROM here)
)
SELECT sha256, size, key FROM here;

-- name: go_on_putting
UPDATE loose SET at = now() WHERE key = $1 AND at > '-infinity' RETURNING key;

-- name: end_puts
-- The bytes under some keys become objects, unless somebody was faster, and the owner may see them. What has no row took
-- so long that its key was given up. Not flushed: a row that a power cut takes is sent again, and the flush of a manifest
-- takes all rows before it along. All lock in the order of digests.
WITH held AS (
    SELECT key FROM loose, set_config('synchronous_commit', 'off', true)
    WHERE key = ANY($2::text[]) AND at > '-infinity' FOR UPDATE OF loose
), asked AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS asked (sha256, key, size, sums)
), known AS (
    SELECT sha256 FROM objects WHERE sha256 = ANY($1::text[])
), stored AS (
    INSERT INTO objects (sha256, size, key, sums)
    SELECT asked.sha256, asked.size, asked.key, asked.sums FROM asked JOIN held USING (key) ORDER BY asked.sha256
    ON CONFLICT (sha256) DO UPDATE SET used_at = now(), key = coalesce(objects.key, excluded.key),
        sums = CASE WHEN objects.key IS NULL THEN excluded.sums ELSE objects.sums END
    RETURNING sha256, size, key
), seen AS (
    INSERT INTO blobs (owner_id, sha256, size) SELECT $5::bigint, sha256, size FROM stored ORDER BY sha256
    ON CONFLICT (owner_id, sha256) DO UPDATE SET used_at = now()
), taken AS (
    DELETE FROM loose USING stored WHERE loose.key = stored.key AND loose.key = ANY($2::text[])
)
SELECT stored.sha256, stored.key, known.sha256 IS NOT NULL AS known FROM stored LEFT JOIN known USING (sha256);

-- name: unsettled
-- Where those of some objects lie that may not be on the disk yet: small ones that no manifest has needed so far.
SELECT key FROM objects
WHERE sha256 = ANY($1::text[]) AND size <= $2 AND key IS NOT NULL
  AND NOT EXISTS (SELECT FROM manifest_objects WHERE object_id = objects.id);

-- name: grant_blobs
-- An owner has sent the bytes of objects that were here already. Not flushed, as above.
WITH here AS (
    SELECT sha256, size FROM objects, set_config('synchronous_commit', 'off', true)
    WHERE sha256 = ANY($2::text[]) AND key IS NOT NULL ORDER BY sha256 FOR KEY SHARE OF objects
)
INSERT INTO blobs (owner_id, sha256, size) SELECT $1::bigint, sha256, size FROM here ORDER BY sha256
ON CONFLICT (owner_id, sha256) DO UPDATE SET used_at = now()
RETURNING sha256;

-- name: give_up
-- A key whose bytes are to be removed.
INSERT INTO loose (key, at) VALUES ($1, '-infinity') ON CONFLICT (key) DO UPDATE SET at = '-infinity';

-- name: find_blob
SELECT objects.size, objects.key, objects.sums FROM blobs JOIN objects USING (sha256)
WHERE blobs.owner_id = $1 AND blobs.sha256 = $2;

-- name: find_blobs
SELECT sha256, objects.size, objects.key, objects.sums FROM blobs JOIN objects USING (sha256)
WHERE blobs.owner_id = $1 AND blobs.sha256 = ANY($2::text[]) AND objects.size <= $3 AND objects.key IS NOT NULL;

-- name: hold_blobs
-- Nobody removes these before this transaction has ended; their objects, and whether their bytes are here.
SELECT objects.id, sha256, objects.size, objects.key IS NOT NULL AS here FROM blobs JOIN objects USING (sha256)
WHERE blobs.owner_id = $1 AND blobs.sha256 = ANY($2::text[])
ORDER BY sha256 FOR KEY SHARE OF blobs;

-- name: add_manifest
INSERT INTO manifests (owner_id, digest, files, bytes, listed) VALUES ($1, $2, $3, $4, true)
ON CONFLICT (owner_id, digest) DO UPDATE SET unnamed_since = NULL, listed = true, stored_at = now()
RETURNING id;

-- name: list_objects
INSERT INTO manifest_objects (manifest_id, object_id) SELECT $1, unnest($2::bigint[]) ON CONFLICT DO NOTHING;

-- name: has_manifest
SELECT EXISTS (SELECT FROM manifests WHERE owner_id = $1 AND digest = $2);
