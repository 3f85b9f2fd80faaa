-- What each run may write on a machine, as the machine says; 0 is as much as it likes.
ALTER TABLE machines ADD COLUMN run_bytes_max bigint NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN run_files_max bigint NOT NULL DEFAULT 0;
