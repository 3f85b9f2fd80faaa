-- Environments that are packed and stored, for other machines: the row is there before the archive is sent, so that
-- what a crash leaves behind is found again.

CREATE TABLE archives (
    digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    key text NOT NULL CHECK (key ~ '^[0-9a-f]{64}$'),
    -- The digest of the list of what is in it, as in `contents`.
    content text NOT NULL CHECK (content ~ '^[0-9a-f]{64}$'),
    -- The directory that it was built for.
    path text NOT NULL,
    size bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    -- When it was stored, whole.
    packed_at timestamptz,
    -- When somebody last went to fetch it.
    asked_at timestamptz,
    -- From here on nobody is told of it; some may still be fetching it.
    removed_at timestamptz
);

CREATE INDEX archives_of_environment ON archives (key);
