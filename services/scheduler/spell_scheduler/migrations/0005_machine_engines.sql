-- What machines can run commands with, and which runs need what: `needs` names engines, separated by commas, of which
-- any will do; empty where all do. A machine that has not said what it has is taken to have both.
ALTER TABLE machines ADD COLUMN engines text[] NOT NULL DEFAULT '{local,docker}';
ALTER TABLE machines ADD COLUMN gpus int NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN gpu_models text[] NOT NULL DEFAULT '{}';

ALTER TABLE runs ADD COLUMN needs text NOT NULL DEFAULT '';
UPDATE runs SET needs = 'docker' WHERE state = 'requested' AND spec->>'docker_image' IS NOT NULL;

CREATE INDEX runs_queued_by_needs ON runs (machine_type, needs, owner_id, id) WHERE state = 'requested';
DROP INDEX runs_queued;
