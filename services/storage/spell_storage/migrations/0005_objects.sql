-- Bytes that are kept, once for all owners. Without a key they were found damaged or lost, and come again some day.
CREATE TABLE objects (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256  text        NOT NULL UNIQUE,
    size    bigint      NOT NULL,
    key     text,
    -- A checksum for each MiB; NULL where it has not been read since there are any.
    sums    bytea,
    used_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO objects (sha256, size, key)
SELECT sha256, max(size), 'blobs/' || left(sha256, 2) || '/' || sha256 FROM blobs GROUP BY sha256;

-- Keys under which bytes may lie that no object has: of a put that goes on and was last heard of then, or, at -infinity,
-- to be removed. A key is used once, so removing what lies under it takes nothing from anybody.
CREATE TABLE loose (
    key text        PRIMARY KEY,
    at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX loose_by_time ON loose (at);

ALTER TABLE blobs
    ADD COLUMN used_at timestamptz NOT NULL DEFAULT now(),
    ADD FOREIGN KEY (sha256) REFERENCES objects (sha256);
CREATE INDEX blobs_by_sha256 ON blobs (sha256);

ALTER TABLE manifests
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- Whether its lines of `manifest_objects` are there.
    ADD COLUMN listed boolean NOT NULL DEFAULT false,
    -- When it was first seen that nothing names it any more.
    ADD COLUMN unnamed_since timestamptz;

-- What a manifest needs, the object that is the manifest itself among it.
CREATE TABLE manifest_objects (
    manifest_id bigint NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    object_id   bigint NOT NULL,
    PRIMARY KEY (manifest_id, object_id)
);
CREATE INDEX manifest_objects_by_object ON manifest_objects (object_id);
