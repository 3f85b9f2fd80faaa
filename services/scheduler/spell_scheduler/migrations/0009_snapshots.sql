-- Snapshots of running runs: how many times one was asked for, up to which of these something has come of it, and why
-- nothing has come of the last one. A snapshot is kept whatever becomes of its run.
ALTER TABLE runs ADD COLUMN saves int NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN saves_met int NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN save_problem text;

CREATE TABLE snapshots (
  run_id bigint NOT NULL REFERENCES runs (id),
  number int NOT NULL,
  owner_id bigint NOT NULL,
  attempt int NOT NULL,
  -- Everything that was asked for up to this count is in it.
  asked int NOT NULL,
  manifest text,
  files bigint NOT NULL,
  bytes bigint NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (run_id, number)
);
CREATE INDEX snapshots_by_manifest ON snapshots (owner_id, manifest);
