"""The gateway answers the world: runs, logs, files and accounts over HTTP."""
