-- Lines about what is not in a snapshot, or changed while it was saved.
ALTER TABLE snapshots ADD COLUMN notes text[] NOT NULL DEFAULT '{}';
