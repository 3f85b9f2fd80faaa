-- name: put
INSERT INTO git_credentials (host, username, secret) VALUES ($1, $2, $3)
ON CONFLICT (host) DO UPDATE SET username = excluded.username, secret = excluded.secret, created_at = now()
RETURNING host, username, created_at;

-- name: all
SELECT host, username, created_at FROM git_credentials ORDER BY host;

-- name: remove
DELETE FROM git_credentials WHERE host = $1 RETURNING host;

-- name: secret_of
SELECT username, secret FROM git_credentials WHERE host = $1;
