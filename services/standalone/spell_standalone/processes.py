"""Bonds between processes: a child that the kernel ends together with its parent."""

import functools
import shutil
import signal
import sys


@functools.cache
def bound_to_parent(number: signal.Signals) -> tuple[str, ...]:
    """Words to put in front of a command so that it gets `number` when the process that starts it dies.

    Empty where neither setpriv nor Linux is there; the next start then ends what was left behind.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        return (setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--")
    if sys.platform != "linux":
        return ()
    program = (
        "import ctypes,os,sys;"
        f"ctypes.CDLL(None).prctl(1,{int(number)});"  # PR_SET_PDEATHSIG
        "os.execvp(sys.argv[1],sys.argv[1:])"
    )
    return (sys.executable, "-I", "-S", "-c", program)
