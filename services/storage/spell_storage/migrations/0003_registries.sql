-- What a registry of images is told when it asks who pulls; the password is encrypted with a key that is not in here.
CREATE TABLE registries (
    registry   text        PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('login', 'aws_key', 'aws_role')),
    username   text        NOT NULL,
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
