-- Who may change what concerns everybody, as the credentials that code is fetched with.
ALTER TABLE users ADD COLUMN admin boolean NOT NULL DEFAULT false;
