-- name: find
-- Where the image of an environment is, if it is in this repository.
SELECT reference FROM pushed_images WHERE key = $1 AND starts_with(reference, $2 || '@');

-- name: pushed
INSERT INTO pushed_images (key, reference) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET reference = excluded.reference, pushed_at = now();

-- name: gone
-- It is not there any more, or is not what it should be.
DELETE FROM pushed_images WHERE key = $1 AND reference = $2;

-- name: forget
DELETE FROM pushed_images WHERE key = $1;
