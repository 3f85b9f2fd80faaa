-- How far a check of all stored files has come that broke off, and which it could not read up to there.
CREATE TABLE scrub (
    only_one   boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    last_id    bigint      NOT NULL,
    unreadable bigint[]    NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
-- Those that were found damaged or lost.
CREATE INDEX objects_damaged ON objects (id) WHERE key IS NULL;
