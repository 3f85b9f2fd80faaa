-- name: store
SELECT id, placed FROM store;

-- name: name_store
INSERT INTO store (id) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: set_placed
UPDATE store SET placed = true;

-- name: some_keys
SELECT key FROM objects WHERE key IS NOT NULL ORDER BY id DESC LIMIT $1;
