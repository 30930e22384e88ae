# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks, and the lines that tell their outcome."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any, Callable

from hotsnap.qemu.qmp import QmpError

from .paths import PATIENCE


class Failed(Exception):
    """A check did not hold."""


def check(condition: Any, message: str) -> None:
    if not condition:
        raise Failed(message)


def wait_until(condition: Callable[[], Any], otherwise: str | Callable[[], str],
               timeout: float = PATIENCE, interval: float = 0.1) -> Any:
    """Waits for a true value of `condition` and returns it; fails with `otherwise` after the
    timeout."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Failed(otherwise() if callable(otherwise) else otherwise)
        time.sleep(interval)
    return value


class Skipped(Exception):
    """The test cannot run here; the text names the reason."""


class Report:
    """Runs checks and prints their lines."""

    def __init__(self) -> None:
        self.failed = 0

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            result = function()
        except Skipped as reason:
            print(f"skip {name} - {reason}", flush=True)
            return None
        except (Failed, QmpError) as error:
            self.failed += 1
            print(f"not ok {name} - {error}", flush=True)
            return None
        except Exception as error:  # noqa: BLE001: any other exception fails this check alone
            self.failed += 1
            traceback.print_exc()
            print(f"not ok {name} - {type(error).__name__}: {error}", flush=True)
            return None
        print(f"ok {name} # {time.monotonic() - started:.1f} s", flush=True)
        return result

    def exit(self) -> None:
        sys.exit(1 if self.failed else 0)
