# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and times as a user writes them."""

from __future__ import annotations

import re

MIB = 1 << 20
SIZE = re.compile(r"(\d+)([KMGT]?)(iB)?")


def parse_size(text: str) -> int:
    """"512M", "2GiB" or "4096" in bytes; ValueError says what is allowed."""
    match = SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size: write bytes, or a number with K, M, G or T")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")


def parse_duration(text: str) -> float:
    """"20s", "1.5m", "500ms" or "20" in seconds; ValueError says what is allowed."""
    match = DURATION.fullmatch(text)
    seconds = (float(match[1]) * {None: 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]
               if match else 0.0)
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a time: write seconds, or a number with ms, s, m or h")
    return seconds
