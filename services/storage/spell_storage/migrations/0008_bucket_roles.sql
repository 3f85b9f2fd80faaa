-- A bucket may also be read as the role of the cluster.
ALTER TABLE buckets DROP CONSTRAINT buckets_kind_check;
ALTER TABLE buckets ADD CONSTRAINT buckets_kind_check CHECK (kind IN ('aws_key', 'aws_role', 'google_key'));
