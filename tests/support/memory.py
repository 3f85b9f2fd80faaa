"""What a process holds in memory."""

from pathlib import Path


def peak_bytes(pid: int) -> int:
    """The most that a process had in memory so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
