-- Every pass asks which of them are named again.
CREATE INDEX manifests_unnamed ON manifests (unnamed_since) WHERE unnamed_since IS NOT NULL;
-- When it was last put: what has it names it soon after.
ALTER TABLE manifests ADD COLUMN stored_at timestamptz NOT NULL DEFAULT now();
