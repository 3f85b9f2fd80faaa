-- What each machine said in its last heartbeat that it holds: [[run id, attempt, fence], …], for the checker.
ALTER TABLE machines ADD COLUMN held jsonb NOT NULL DEFAULT '[]';
