"""SQL files, applied in order."""
