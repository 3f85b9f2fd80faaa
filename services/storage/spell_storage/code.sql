-- name: put_repository
INSERT INTO repositories (owner_id, root_commit, name) VALUES ($1, $2, $3)
ON CONFLICT (owner_id, root_commit) DO UPDATE SET name = excluded.name, updated_at = now()
RETURNING id, owner_id, name, root_commit, created_at, updated_at;

-- name: repositories_of
SELECT id, owner_id, name, root_commit, created_at, updated_at
FROM repositories WHERE owner_id = $1 ORDER BY updated_at DESC, id DESC;

-- name: repository_of
SELECT id, owner_id, name, root_commit, created_at, updated_at
FROM repositories WHERE owner_id = $1 AND id = $2;

-- name: commit_of
SELECT commits.repository_id, repositories.name, commits.tree
FROM commits JOIN repositories ON repositories.id = commits.repository_id
WHERE commits.owner_id = $1 AND commits.commit = $2;

-- name: add_commits
INSERT INTO commits (owner_id, repository_id, commit, tree)
SELECT $1, $2, commit, tree FROM unnest($3::text[], $4::text[]) AS new (commit, tree)
ORDER BY commit
ON CONFLICT DO NOTHING;
