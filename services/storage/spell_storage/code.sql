-- name: put_repository
INSERT INTO repositories (owner_id, root_commit, name) VALUES ($1, $2, $3)
ON CONFLICT (owner_id, root_commit) DO UPDATE SET name = excluded.name, updated_at = now()
RETURNING id, owner_id, name, root_commit, url, created_at, updated_at;

-- name: put_fetched_repository
INSERT INTO repositories (owner_id, url, name) VALUES ($1, $2, $3)
ON CONFLICT (owner_id, url) DO UPDATE SET updated_at = now()
RETURNING id, owner_id, name, root_commit, url, created_at, updated_at;

-- name: fetched_repository
SELECT id, name FROM repositories WHERE owner_id = $1 AND url = $2;

-- name: repositories_of
SELECT id, owner_id, name, root_commit, url, created_at, updated_at
FROM repositories WHERE owner_id = $1 ORDER BY updated_at DESC, id DESC;

-- name: repository_of
SELECT id, owner_id, name, root_commit, url, created_at, updated_at
FROM repositories WHERE owner_id = $1 AND id = $2;

-- name: commit_of
-- In one repository, or in any that the owner has pushed.
SELECT commits.repository_id, repositories.name, commits.tree,
       commits.used_at < now() - make_interval(secs => $4) AS touch
FROM commits JOIN repositories ON repositories.id = commits.repository_id
WHERE commits.owner_id = $1 AND commits.commit = $2
  AND (commits.repository_id = $3 OR $3::bigint IS NULL AND repositories.url IS NULL)
ORDER BY commits.repository_id DESC LIMIT 1;

-- name: use_commit
UPDATE commits SET used_at = now() WHERE owner_id = $1 AND commit = $2 AND repository_id = $3
RETURNING commit;

-- name: add_commits
INSERT INTO commits (owner_id, repository_id, commit, tree)
SELECT $1, $2, commit, tree FROM unnest($3::text[], $4::text[]) AS new (commit, tree)
ORDER BY commit
ON CONFLICT (owner_id, commit, repository_id) DO UPDATE SET used_at = now();

-- name: remove_commit
DELETE FROM commits WHERE owner_id = $1 AND commit = $2 AND repository_id = $3;

-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('spell-storage-housekeeping'));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('spell-storage-housekeeping'));

-- name: all_repositories
SELECT id, owner_id, updated_at < $1 AS unused FROM repositories ORDER BY id;

-- name: unused_commits
SELECT commit FROM commits WHERE repository_id = $1 AND used_at < $2;

-- name: remove_unused_commits
-- What was asked for since then stays.
DELETE FROM commits WHERE repository_id = $1 AND used_at < $2 AND commit = ANY($3::text[])
RETURNING commit;

-- name: remove_broken_commits
DELETE FROM commits WHERE repository_id = $1 AND commit = ANY($2::text[]);

-- name: commits_in
SELECT commit FROM commits WHERE repository_id = $1;

-- name: is_deserted
SELECT id FROM repositories WHERE id = $1 AND updated_at < $2
  AND NOT EXISTS (SELECT FROM commits WHERE repository_id = $1);

-- name: is_unused_mirror
SELECT url IS NOT NULL AND updated_at < $2 FROM repositories WHERE id = $1;

-- name: remove_repository
DELETE FROM repositories WHERE id = $1 AND updated_at < $2
  AND NOT EXISTS (SELECT FROM commits WHERE repository_id = $1)
RETURNING id;
