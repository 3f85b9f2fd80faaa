-- What the URL of a run's code turned out to be: repository, commit and tree, as its machine reported them.
ALTER TABLE runs ADD COLUMN fetched jsonb;
