-- name: put
INSERT INTO registries (registry, kind, username, secret) VALUES ($1, $2, $3, $4)
ON CONFLICT (registry) DO UPDATE
    SET kind = excluded.kind, username = excluded.username, secret = excluded.secret, created_at = now()
RETURNING registry, kind, username, created_at;

-- name: all
SELECT registry, kind, username, created_at FROM registries ORDER BY registry;

-- name: remove
DELETE FROM registries WHERE registry = $1 RETURNING registry;

-- name: secret_of
SELECT kind, username, secret FROM registries WHERE registry = $1;
