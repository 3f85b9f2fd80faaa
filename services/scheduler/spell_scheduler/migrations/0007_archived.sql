-- When its owner had enough of a run. Nothing is shown of it then but by its number, and its files may go.
ALTER TABLE runs ADD COLUMN archived_at timestamptz;
CREATE INDEX runs_by_manifest ON runs (manifest) WHERE manifest IS NOT NULL;
