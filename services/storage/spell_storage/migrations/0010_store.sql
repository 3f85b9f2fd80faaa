-- What the object store of this database is known by: an object in it says so once it is placed.
CREATE TABLE store (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id       text    NOT NULL,
    placed   boolean NOT NULL DEFAULT false
);

-- Of bytes that an object had until they were found damaged or lost: which one. They are read again before they go.
ALTER TABLE loose ADD COLUMN sha256 text;
UPDATE loose SET sha256 = objects.sha256 FROM objects
WHERE objects.key IS NULL AND loose.at > '-infinity' AND objects.sha256 = left(split_part(loose.key, '/', 3), 64);
CREATE INDEX loose_suspects ON loose (key) WHERE sha256 IS NOT NULL;
