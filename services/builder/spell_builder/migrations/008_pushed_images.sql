-- Images that are in the registry that all machines can reach.

CREATE TABLE pushed_images (
    key text PRIMARY KEY CHECK (key ~ '^[0-9a-f]{64}$'),
    -- Its repository there, and its digest.
    reference text NOT NULL,
    pushed_at timestamptz NOT NULL DEFAULT now()
);
