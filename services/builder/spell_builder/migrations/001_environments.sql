-- What was asked for, what it became, and which environments have been built from it.

CREATE TABLE environments (
    key text PRIMARY KEY CHECK (key ~ '^[0-9a-f]{64}$'),
    -- Exact versions with hashes: enough to build it again when its directory is gone.
    resolved text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    built_at timestamptz,
    build_seconds double precision
);

CREATE TABLE requests (
    digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    key text NOT NULL REFERENCES environments (key),
    resolved_at timestamptz NOT NULL
);
