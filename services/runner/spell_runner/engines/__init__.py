"""Ways to run a command: `local` on this machine, `null` for measuring everything but the command."""
