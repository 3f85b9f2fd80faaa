"""What outlives the runner: the fork server, and the shim that is the parent of one command and owns its log."""
