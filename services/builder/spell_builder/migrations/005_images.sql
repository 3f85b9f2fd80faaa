-- Environments of the docker engine are images, each made on another one.

-- What the daemon knew it by when it was built: any other is not it.
ALTER TABLE environments ADD COLUMN image text;
-- The key of the layer that it was made on; none for the lowest, which is made on a base image.
ALTER TABLE environments ADD COLUMN below text CHECK (below ~ '^[0-9a-f]{64}$');
