# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's clocks, as an object, so that tests can put another one in its place."""

from __future__ import annotations

import time


class Clock:
    @staticmethod
    def wall() -> float:
        """Seconds since 1970; anybody may set this clock."""
        return time.time()

    @staticmethod
    def steady() -> float:
        """Seconds since the host's boot, those included in which it was suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Time in which the host is suspended does not count."""
        time.sleep(seconds)
