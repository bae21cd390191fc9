"""Runs a command on a leash: when the process that started it dies, however it dies, it gets a signal.

A script, started by `child.py` as `python -I -S leash.py SIGNAL PARENT UID:GID COMMAND...`: it gives up root
if asked to, binds itself to its parent and becomes the command. In a fresh process this is safe;
between fork and exec of a process with threads it would not be. Knows the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def drop_privileges(owner: str) -> None:
    """Become `uid:gid`; an empty `owner` changes nothing."""
    if owner:
        uid, gid = map(int, owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def set_parent_death_signal(signal: int, parent: int) -> None:
    """Ask the kernel for the signal. Only Linux has it: elsewhere the command may outlive us."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:  # it died before the kernel knew of the wish
        raise SystemExit(0)


def main(signal: str, parent: str, owner: str, *command: str) -> None:
    drop_privileges(owner)  # first: a change of user wipes the wish out
    set_parent_death_signal(int(signal), int(parent))
    os.execv(command[0], command)  # noqa: S606 -- becoming another program is the point, no shell wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
