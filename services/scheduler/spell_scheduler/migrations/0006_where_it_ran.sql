-- With what a run's command was run, and the GPUs that it got, as its machine reported them when it started.
ALTER TABLE runs ADD COLUMN engine text;
ALTER TABLE runs ADD COLUMN gpus text[] NOT NULL DEFAULT '{}';
