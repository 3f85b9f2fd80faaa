-- name: lock
-- One at a time per owner, so that the count holds.
SELECT pg_advisory_xact_lock(hashtext('spell-links'), $1::bigint::int);

-- name: count
SELECT count(*) FROM links WHERE owner_id = $1;

-- name: add
INSERT INTO links (owner_id, alias, target) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: one
SELECT alias, target, created_at FROM links WHERE owner_id = $1 AND alias = $2;

-- name: all
SELECT alias, target, created_at FROM links WHERE owner_id = $1 ORDER BY alias COLLATE "C";

-- name: remove
DELETE FROM links WHERE owner_id = $1 AND alias = $2 RETURNING alias;
