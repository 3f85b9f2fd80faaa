-- What was found in an environment each time it was built, noted before it was used: one digest per key, or an
-- equal key did not give equal files (I17).

CREATE TABLE contents (
    key text NOT NULL CHECK (key ~ '^[0-9a-f]{64}$'),
    digest text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key, digest)
);
