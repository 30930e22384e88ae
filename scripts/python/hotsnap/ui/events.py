# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command that goes on and on tells: a line for each event, as text or as a JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .output import say


class Events:
    def __init__(self, as_json: bool, now: Callable[[], str]):
        self.as_json, self.now = as_json, now

    def tell(self, event: str, text: str, trouble: bool = False, **fields: Any) -> None:
        """Text goes to standard output, that of a trouble to standard error, with --json too."""
        if self.as_json:
            print(json.dumps({"event": event, "time": self.now(), **fields}), flush=True)
        if trouble:
            say(f"hotsnap: {text}")
        elif not self.as_json:
            print(f"{self.now()} {text}", flush=True)
