"""Whether a process has started others."""

from pathlib import Path


class Children:
    """What a process has started, as the kernel counts it: not even the shortest-lived child is missed."""

    def __init__(self, service):
        self._process = Path(f"/proc/{service.process.pid}")
        self._before = self._count()

    def _count(self):
        # Page faults of all children that were waited for: no child gets by without some.
        return int((self._process / "stat").read_text().rpartition(")")[2].split()[8])

    def alive(self):
        return [name for file in self._process.glob("task/*/children") for name in file.read_text().split()]

    def any(self):
        """Whether there was one since this was made."""
        return self._count() != self._before or self.alive() != []
