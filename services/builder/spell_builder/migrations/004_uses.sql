-- Which run uses which environment: one that has not ended keeps it, and afterwards one can be told what it was.

ALTER TABLE environments ADD COLUMN bytes bigint;

CREATE TABLE uses (
    run_id bigint PRIMARY KEY,
    key text NOT NULL CHECK (key ~ '^[0-9a-f]{64}$'),
    -- Whether the environment was there already.
    reused boolean NOT NULL,
    resolved_at timestamptz,
    used_at timestamptz NOT NULL DEFAULT now(),
    over boolean NOT NULL DEFAULT false
);

CREATE INDEX uses_of_environment ON uses (key);
CREATE INDEX uses_not_over ON uses (run_id) WHERE NOT over;
