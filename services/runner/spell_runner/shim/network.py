"""The network of runs in containers: one bridge, on which none can speak to another. Pure.

Standard library only: this is loaded once by the fork server and then only forked.
"""

import os
import zlib
from typing import Any

NAME = "spell-runs"
ICC = "com.docker.network.bridge.enable_icc"
BRIDGE = "com.docker.network.bridge.name"


def definition(socket: str) -> dict[str, Any]:
    """What a daemon is asked for, by the path of its socket. The bridge is called the same whenever the network is made
    anew, so rules for it stay right; another daemon of the machine has another one.
    """
    bridge = f"spell-{zlib.crc32(os.path.realpath(socket).encode(errors='surrogateescape')):08x}"
    return {
        "Name": NAME,
        "CheckDuplicate": True,
        "Driver": "bridge",
        # The rules that keep runs from what is the machine's alone are for IPv4.
        "EnableIPv6": False,
        "Options": {ICC: "false", BRIDGE: bridge},
    }
