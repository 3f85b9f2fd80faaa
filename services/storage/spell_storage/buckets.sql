-- name: put
INSERT INTO buckets (url, kind, username, secret) VALUES ($1, $2, $3, $4)
ON CONFLICT (url) DO UPDATE
    SET kind = excluded.kind, username = excluded.username, secret = excluded.secret, created_at = clock_timestamp()
RETURNING url, kind, username, created_at;

-- name: all
SELECT url, kind, username, created_at FROM buckets ORDER BY url;

-- name: remove
DELETE FROM buckets WHERE url = $1 RETURNING url;

-- name: secret_of
SELECT kind, username, secret, created_at FROM buckets WHERE url = $1;
