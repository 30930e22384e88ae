# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells systemd how a service of Type=notify is: sd_notify(3) is one datagram."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(**values: str) -> None:
    """As in notify(READY="1", STATUS="…"). Does nothing if no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    text = "\n".join(f"{name}={value}" for name, value in values.items())
    with contextlib.suppress(OSError), \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(text.encode(), address)
