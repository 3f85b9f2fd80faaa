-- Journals: what a run's attempt wrote, as contiguous chunks of whole records.
CREATE TABLE journals (
    run_id       bigint  NOT NULL,
    attempt      integer NOT NULL,
    fence        bigint  NOT NULL,
    end_offset   bigint  NOT NULL DEFAULT 0,
    stdout_bytes bigint  NOT NULL DEFAULT 0,
    stderr_bytes bigint  NOT NULL DEFAULT 0,
    newlines     bigint  NOT NULL DEFAULT 0,
    sealed       boolean NOT NULL DEFAULT false,
    -- What has been stored inline since the last merge: chunks from small_from on, how many and how big.
    small_from   bigint  NOT NULL DEFAULT 0,
    small_chunks integer NOT NULL DEFAULT 0,
    small_bytes  bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, attempt)
) WITH (fillfactor = 70); -- room for the next version of a row on its own page

-- One chunk: its bytes stand here when they are few, under object_key in the object store otherwise.
CREATE TABLE chunks (
    run_id          bigint  NOT NULL,
    attempt         integer NOT NULL,
    start_offset    bigint  NOT NULL,
    length          integer NOT NULL CHECK (length > 0),
    stdout_before   bigint  NOT NULL,
    stderr_before   bigint  NOT NULL,
    newlines_before bigint  NOT NULL,
    stdout_bytes    integer NOT NULL,
    stderr_bytes    integer NOT NULL,
    data            bytea CHECK (octet_length(data) = length),
    object_key      text,
    PRIMARY KEY (run_id, attempt, start_offset),
    CHECK ((data IS NULL) <> (object_key IS NULL))
);
-- Compressing log bytes on the way in would cost more CPU than everything else here.
ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Which owner may see which blob. The bytes are stored once, whoever sent them.
CREATE TABLE blobs (
    owner_id   bigint      NOT NULL,
    sha256     text        NOT NULL,
    size       bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, sha256)
);

CREATE TABLE manifests (
    owner_id   bigint      NOT NULL,
    digest     text        NOT NULL,
    files      bigint      NOT NULL,
    bytes      bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, digest)
);

CREATE TABLE repositories (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner_id    bigint      NOT NULL,
    root_commit text        NOT NULL,
    name        text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner_id, root_commit)
);

-- Commits that are here whole: the commit, its tree and every blob of it.
CREATE TABLE commits (
    owner_id      bigint NOT NULL,
    commit        text   NOT NULL,
    tree          text   NOT NULL,
    repository_id bigint NOT NULL REFERENCES repositories (id),
    PRIMARY KEY (owner_id, commit)
);
