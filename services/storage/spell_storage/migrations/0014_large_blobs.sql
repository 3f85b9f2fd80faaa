-- Which sizes of large files an owner has.
CREATE INDEX blobs_large ON blobs (owner_id, size) WHERE size > 1048576;
