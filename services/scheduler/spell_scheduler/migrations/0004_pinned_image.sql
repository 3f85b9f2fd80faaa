-- What the image of a run was when it was got ready: its name with a digest, as its machine reported it.
ALTER TABLE runs ADD COLUMN image text;
