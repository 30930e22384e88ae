# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this user may have the kernel's page faults told to a program (userfaultfd).

Memory can be loaded on demand only where faults in kernel mode are told as well: those of KVM, and
of disk requests into guest memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform

_SYSCALL = {"x86_64": 323, "aarch64": 282}
_DEVICE = "/dev/userfaultfd"
_NEW = 0xAA00  # USERFAULTFD_IOC_NEW


def permitted() -> bool:
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    number = _SYSCALL.get(platform.machine())
    if number is not None:
        fd = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), ctypes.c_int(flags))
        if fd >= 0:
            os.close(fd)
            return True
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(device, _NEW, flags))
        return True
    except OSError:
        return False
    finally:
        os.close(device)
