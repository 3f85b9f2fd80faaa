-- name: lock_journals
-- Create what is missing, record higher fences, lock in a fixed order and say what is there: one round trip.
INSERT INTO journals AS known (run_id, attempt, fence)
SELECT run_id, attempt, fence
FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS given (run_id, attempt, fence)
ORDER BY run_id, attempt
ON CONFLICT (run_id, attempt) DO UPDATE SET fence = greatest(known.fence, excluded.fence)
RETURNING run_id, attempt, fence, end_offset, stdout_bytes, stderr_bytes, newlines, sealed,
    small_from, small_chunks, small_bytes;

-- name: store_chunks
-- New chunks and the journals' new ends. The journals are locked.
WITH stored AS (
    INSERT INTO chunks (run_id, attempt, start_offset, length, stdout_before, stderr_before,
        newlines_before, stdout_bytes, stderr_bytes, data, object_key)
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::integer[], $9::integer[], $10::bytea[], $11::text[])
)
UPDATE journals SET end_offset = new.end_offset, stdout_bytes = new.stdout_bytes,
    stderr_bytes = new.stderr_bytes, newlines = new.newlines, sealed = new.sealed,
    small_chunks = new.small_chunks, small_bytes = new.small_bytes
FROM unnest($12::bigint[], $13::integer[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[],
    $18::boolean[], $19::integer[], $20::bigint[])
    AS new (run_id, attempt, end_offset, stdout_bytes, stderr_bytes, newlines, sealed, small_chunks, small_bytes)
WHERE journals.run_id = new.run_id AND journals.attempt = new.attempt;

-- name: find_journal
SELECT fence, end_offset, stdout_bytes, stderr_bytes, newlines, sealed, small_from, small_chunks, small_bytes
FROM journals WHERE run_id = $1 AND attempt = $2;

-- name: chunks_from
-- Chunks from the one that holds the offset $3 on. Merging may have moved the borders since the last call.
SELECT start_offset, length, stdout_before, stderr_before, newlines_before, stdout_bytes, stderr_bytes,
    data, object_key
FROM chunks
WHERE run_id = $1 AND attempt = $2
    AND start_offset >= coalesce((
        SELECT holding.start_offset FROM chunks AS holding
        WHERE holding.run_id = $1 AND holding.attempt = $2 AND holding.start_offset <= $3
        ORDER BY holding.start_offset DESC LIMIT 1), 0)
    AND start_offset + length > $3
    AND CASE $4::text
        WHEN 'stdout' THEN stdout_bytes > 0
        WHEN 'stderr' THEN stderr_bytes > 0
        WHEN 'all' THEN stdout_bytes + stderr_bytes > 0
        ELSE true END
ORDER BY start_offset LIMIT $5;

-- name: chunk_of_output
-- Where the chunk starts that holds the output byte number $3 (from 0) of a stream.
SELECT start_offset FROM chunks
WHERE run_id = $1 AND attempt = $2
    AND CASE $4::text
        WHEN 'stdout' THEN stdout_before
        WHEN 'stderr' THEN stderr_before
        ELSE stdout_before + stderr_before END <= $3
ORDER BY start_offset DESC LIMIT 1;

-- name: chunk_of_newline
-- Where the chunk starts that holds the newline number $3 (from 1) of the output.
SELECT start_offset FROM chunks
WHERE run_id = $1 AND attempt = $2 AND newlines_before < $3
ORDER BY start_offset DESC LIMIT 1;

-- name: lock_small_from
SELECT small_from FROM journals WHERE run_id = $1 AND attempt = $2 FOR UPDATE;

-- name: delete_chunks
DELETE FROM chunks WHERE run_id = $1 AND attempt = $2 AND start_offset >= $3 AND start_offset < $4;

-- name: insert_merged
INSERT INTO chunks (run_id, attempt, start_offset, length, stdout_before, stderr_before, newlines_before,
    stdout_bytes, stderr_bytes, data, object_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: merged_until
UPDATE journals SET small_from = $3, small_chunks = small_chunks - $4, small_bytes = small_bytes - $5
WHERE run_id = $1 AND attempt = $2;
