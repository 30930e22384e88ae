# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of 'hotsnap snapshot' that QMP's hotsnap-cluster has by the same name: one table, of which
the command line, the request and the manual page are made."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..model import cluster


def _size(text: str) -> int:
    try:
        return cluster.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# Name in QMP -> how argparse reads it. What is not given is left to QMP's default.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "bandwidth": {
        "metavar": "SIZE", "type": _size,
        "help": "limit of each member's background copy in bytes per second, as in 200M"},
    "engine": {
        "choices": ("auto", "kvm", "uffd"),
        "help": "how writes are trapped (default: auto, which is kvm where the host's KVM has the "
                "patches, else uffd)"},
}


def add_to(parser: argparse.ArgumentParser) -> None:
    for name, how in OPTIONS.items():
        parser.add_argument(f"--{name}", **how)


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of hotsnap-cluster that the command line gave."""
    values = {name: getattr(options, name.replace("-", "_")) for name in OPTIONS}
    return {name: value for name, value in values.items() if value is not None}
