-- name: user_of_token
-- Whose token this is, if it is still good.
SELECT u.id, u.name, u.created_at, u.admin
FROM tokens t JOIN users u ON u.id = t.user_id
WHERE t.sha256 = $1 AND (t.expires_at IS NULL OR t.expires_at > now());

-- name: ensure_user
INSERT INTO users (name, admin) VALUES ($1, true) ON CONFLICT (name) DO UPDATE SET admin = true;

-- name: user_named
SELECT id FROM users WHERE name = $1;

-- name: ensure_token
INSERT INTO tokens (user_id, name, sha256) VALUES ($1, $2, $3) ON CONFLICT (sha256) DO NOTHING;

-- name: ensure_key
INSERT INTO ssh_keys (user_id, title, public_key, fingerprint) VALUES ($1, $2, $3, $4)
ON CONFLICT (fingerprint) DO NOTHING;

-- name: tokens_of
SELECT id, name, created_at, expires_at FROM tokens WHERE user_id = $1 ORDER BY id;

-- name: add_token
INSERT INTO tokens (user_id, name, sha256, expires_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4::double precision))
RETURNING id, name, created_at, expires_at;

-- name: delete_token
DELETE FROM tokens WHERE user_id = $1 AND id = $2 RETURNING sha256;

-- name: count_tokens
SELECT count(*) FROM tokens WHERE user_id = $1;

-- name: keys_of
SELECT id, title, fingerprint, created_at FROM ssh_keys WHERE user_id = $1 ORDER BY id;

-- name: key_with_fingerprint
SELECT id, user_id, title, fingerprint, created_at FROM ssh_keys WHERE fingerprint = $1;

-- name: count_keys
SELECT count(*) FROM ssh_keys WHERE user_id = $1;

-- name: delete_key
DELETE FROM ssh_keys WHERE user_id = $1 AND id = $2 RETURNING fingerprint;

-- name: user_of_key
SELECT u.id, u.name FROM ssh_keys k JOIN users u ON u.id = k.user_id WHERE k.fingerprint = $1;

-- name: note
INSERT INTO audit (user_id, action, subject) VALUES ($1, $2, $3);
