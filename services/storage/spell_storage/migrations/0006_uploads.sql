-- What people bring. Those of owner 0 are what everybody finds below public/, and their names may have slashes.
CREATE TABLE uploads (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner_id     bigint      NOT NULL,
    name         text        NOT NULL,
    compressed   boolean     NOT NULL,
    -- It is complete once it has a manifest.
    manifest     text,
    files        bigint,
    bytes        bigint,
    created_at   timestamptz NOT NULL DEFAULT now(),
    used_at      timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    UNIQUE (owner_id, name),
    CHECK ((manifest IS NULL) = (completed_at IS NULL))
);
CREATE INDEX uploads_open ON uploads (used_at) WHERE manifest IS NULL;

-- A file on its way. Once all of it is there it is a blob, and sha256 says which.
CREATE TABLE upload_files (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    upload_id bigint NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    path      text   NOT NULL,
    length    bigint NOT NULL CHECK (length >= 0),
    received  bigint NOT NULL DEFAULT 0 CHECK (received BETWEEN 0 AND length),
    -- What its sender says it will be.
    announced text,
    sha256    text,
    UNIQUE (upload_id, path)
);

-- Its parts, in the object store.
CREATE TABLE upload_parts (
    file_id      bigint  NOT NULL REFERENCES upload_files (id) ON DELETE CASCADE,
    start_offset bigint  NOT NULL,
    length       integer NOT NULL CHECK (length > 0),
    object_key   text    NOT NULL,
    PRIMARY KEY (file_id, start_offset)
);

CREATE TABLE links (
    owner_id   bigint      NOT NULL,
    alias      text        NOT NULL,
    target     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, alias)
);

-- What keeps blobs alive: manifests that a name leads to, and files of uploads that go on.
CREATE VIEW named_manifests AS
    SELECT owner_id, manifest AS digest FROM uploads WHERE manifest IS NOT NULL;
CREATE VIEW awaited_blobs AS
    SELECT u.owner_id, f.sha256
    FROM upload_files f JOIN uploads u ON u.id = f.upload_id
    WHERE f.sha256 IS NOT NULL AND u.manifest IS NULL;
