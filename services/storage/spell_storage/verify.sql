-- name: journal_shape
-- How much the chunks of a journal cover, and how many of them do not begin where the one before ends.
SELECT coalesce(sum(length), 0)::bigint AS covered,
    count(*) FILTER (WHERE start_offset <> before) AS gaps
FROM (
    SELECT start_offset, length,
        coalesce(lag(start_offset + length) OVER (ORDER BY start_offset), 0) AS before
    FROM chunks WHERE run_id = $1 AND attempt = $2
) AS placed;
