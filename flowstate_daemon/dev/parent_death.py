"""Runs a command that gets a signal when its parent process dies, for whatever reason.

A script, started by `process.py` as `python -I -S parent_death.py SIGNAL PARENT UID:GID COMMAND...`. It drops root if
requested, sets the parent-death signal, and executes the command. In a new process this is safe; between fork and exec
of a process with threads it would not be. It uses the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def drop_privileges(owner: str) -> None:
    """Switch to `uid:gid`; an empty `owner` changes nothing."""
    if owner:
        uid, gid = map(int, owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def set_parent_death_signal(signal: int, parent: int) -> None:
    """Request the signal from the kernel. Only Linux supports it; elsewhere the command may outlive its parent."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # the parent died before the call
        raise SystemExit(0)


def main(signal: str, parent: str, owner: str, *command: str) -> None:
    drop_privileges(owner)  # first, because a change of user clears the parent-death signal
    set_parent_death_signal(int(signal), int(parent))
    os.execv(command[0], command)  # noqa: S606 - the command replaces this process, without a shell


if __name__ == "__main__":
    main(*sys.argv[1:])
