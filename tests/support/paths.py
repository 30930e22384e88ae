# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs and guests that the tests run, and the time that the tests wait for them."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HOTSNAP_BUILD", ROOT / "build"))
QEMU = Path(os.environ.get("HOTSNAP_QEMU", BUILD / "qemu" / "qemu-system-x86_64"))
QEMU_IMG = Path(os.environ.get("HOTSNAP_QEMU_IMG", BUILD / "qemu" / "qemu-img"))
STOCK = Path(os.environ.get("HOTSNAP_STOCK_QEMU", BUILD / "qemu-stock" / "qemu-system-x86_64"))
GUEST = BUILD / "guest"
FIRMWARE = ["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]
# Seconds to wait for an event that must happen but may be late: other programs use the machine too.
PATIENCE = 120.0
