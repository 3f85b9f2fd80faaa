"""The scheduler decides: the only writer of run state."""
