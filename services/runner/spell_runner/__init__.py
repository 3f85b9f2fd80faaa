"""One per machine: runs commands under shims, keeps their logs and files, and reports every step."""
