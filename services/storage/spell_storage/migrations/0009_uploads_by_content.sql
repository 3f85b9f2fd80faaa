-- Removing asks of every blob whether an upload waits for it.
CREATE INDEX upload_files_by_content ON upload_files (sha256) WHERE sha256 IS NOT NULL;
