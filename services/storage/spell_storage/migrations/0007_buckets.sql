-- What private buckets of others are read with; the secret is encrypted with a key that is not in here.
CREATE TABLE buckets (
    url        text        PRIMARY KEY CHECK (url ~ '^(s3|gs)://'),
    kind       text        NOT NULL CHECK (kind IN ('aws_key', 'google_key')),
    username   text        NOT NULL,
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
