"""What a git process that a service of ours starts gets to know: nothing of its machine or its user."""

import os

#: Whose the repositories are that the platform fetches for itself.
PLATFORM = 0


def environment() -> dict[str, str]:
    """All that a git process of ours gets to know of this one."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }
