-- Every pass asks which of them are named again.
CREATE INDEX manifests_unnamed ON manifests (unnamed_since) WHERE unnamed_since IS NOT NULL;
