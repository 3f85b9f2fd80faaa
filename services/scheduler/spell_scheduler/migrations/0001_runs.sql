-- Runs, their transition log, the outbox, machines and limits: everything the scheduler owns.

CREATE SEQUENCE fences;
CREATE SEQUENCE run_ids;

-- Generated from spell_proto.state at every start; `spell verify` replays the log against it.
CREATE TABLE legal_moves (
  before text NOT NULL, -- '' for the run that does not exist yet
  after text NOT NULL,
  PRIMARY KEY (before, after)
);

CREATE TABLE runs (
  id bigint PRIMARY KEY,
  owner_id bigint NOT NULL,
  creator text NOT NULL,
  idempotency_key text,
  request_sha256 text NOT NULL,
  spec jsonb NOT NULL,
  machine_type text NOT NULL,
  repository text,
  labels text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL,
  state text NOT NULL,
  intent text NOT NULL CHECK (intent IN ('run', 'stop', 'kill')),
  intent_reason text,
  reason text,
  message text,
  version int NOT NULL,
  attempt int NOT NULL,
  fence bigint NOT NULL,
  machine_id text,
  boot_id text,
  spot boolean NOT NULL,
  steps int NOT NULL,
  exit_code int,
  exit_cause text,
  timeout_seconds int,
  deadline timestamptz,
  started_at timestamptz,
  ended_at timestamptz,
  manifest text,
  saved_files bigint,
  saved_bytes bigint,
  log jsonb,
  UNIQUE (owner_id, idempotency_key)
) WITH (fillfactor = 70);

CREATE INDEX runs_of_owner ON runs (owner_id, id);
CREATE INDEX runs_queued ON runs (machine_type, owner_id, id) WHERE state = 'requested';
CREATE INDEX runs_active_of_owner ON runs (owner_id)
  WHERE state IN ('building', 'mounting', 'running', 'saving', 'pushing');
CREATE INDEX runs_active_on_machine ON runs (machine_id)
  WHERE state IN ('building', 'mounting', 'running', 'saving', 'pushing');
CREATE INDEX runs_with_deadline ON runs (deadline) WHERE state = 'running' AND deadline IS NOT NULL;

CREATE TABLE transitions (
  run_id bigint NOT NULL REFERENCES runs (id),
  version int NOT NULL,
  owner_id bigint NOT NULL,
  -- The cursor of a reader is (xid, run_id, version) below pg_snapshot_xmin: a serial column would skip rows of
  -- transactions that commit late.
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  kind text NOT NULL CHECK (kind IN ('moved', 'intent')),
  before text,
  after text NOT NULL,
  intent text NOT NULL,
  attempt int NOT NULL,
  fence bigint NOT NULL,
  actor text NOT NULL,
  reason text,
  exit_code int,
  at timestamptz NOT NULL,
  PRIMARY KEY (run_id, version)
);
CREATE INDEX transitions_in_commit_order ON transitions (owner_id, xid, run_id, version);

CREATE FUNCTION transitions_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'the transition log is append-only'; END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON transitions
  FOR EACH ROW EXECUTE FUNCTION transitions_are_append_only();

-- One row per message that must reach a stream. Its message id is run:version:resend.
CREATE TABLE outbox (
  run_id bigint NOT NULL,
  version int NOT NULL,
  stream text NOT NULL,
  subject text NOT NULL,
  payload bytea NOT NULL,
  resend int NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_at timestamptz,
  PRIMARY KEY (run_id, version, stream)
) WITH (fillfactor = 70);
CREATE INDEX outbox_unpublished ON outbox (created_at) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;

CREATE TABLE machines (
  id text PRIMARY KEY,
  boot_id text NOT NULL,
  machine_type text NOT NULL,
  slots int NOT NULL,
  spot boolean NOT NULL,
  isolation text NOT NULL,
  last_seen timestamptz NOT NULL,
  first_seen timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The limit of concurrent runs per owner as it was set over time, for the checker.
CREATE TABLE limits (
  since timestamptz PRIMARY KEY DEFAULT clock_timestamp(),
  runs_max int NOT NULL
);

-- What could not be understood, kept for a person to look at.
CREATE TABLE dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  subject text NOT NULL,
  problem text NOT NULL,
  data bytea NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);
