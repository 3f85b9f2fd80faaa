-- Repositories that are fetched from elsewhere have a URL and no root commit.
ALTER TABLE repositories
    ALTER COLUMN root_commit DROP NOT NULL,
    ADD COLUMN url text,
    ADD UNIQUE (owner_id, url),
    ADD CHECK ((root_commit IS NULL) <> (url IS NULL));

-- A commit may be in several repositories of an owner. It is kept for a while after it was last asked for.
ALTER TABLE commits
    ADD COLUMN used_at timestamptz NOT NULL DEFAULT now(),
    DROP CONSTRAINT commits_pkey,
    ADD PRIMARY KEY (owner_id, commit, repository_id);
CREATE INDEX commits_by_repository ON commits (repository_id, used_at);

-- What a host is told when it asks who fetches; the password is encrypted with a key that is not in here.
CREATE TABLE git_credentials (
    host       text        PRIMARY KEY,
    username   text        NOT NULL,
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
