# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of 'hotsnap every', and what its --status prints."""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from ..errors import HotsnapError, UsageError
from ..model import bundle, groups, series, series_state
from ..model.state import State
from ..ui.output import human_seconds, print_json, table
from . import snapshot_options
from .every import Plan
from .series_work import Wanted

PREFIX = "every"
_NO_TAG = re.compile("[=,]")  # what a selector has, and no tag
LONGEST = "-20261127T120000Z-9999"  # what follows a prefix


def _period(text: str) -> int:
    try:
        return series.parse_period(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("period", metavar="PERIOD", nargs="?", type=_period,
                        help="seconds, or a number with s, m, h, d or w")
    for name, what in (("keep", "the newest N snapshots"),
                       ("keep-hourly", "the newest snapshot of each of the last N hours that have "
                                       "one"),
                       ("keep-daily", "the newest snapshot of each of the last N days (UTC) that "
                                      "have one")):
        parser.add_argument(f"--{name}", metavar="N", type=snapshot_options.count, help=f"keep {what}; without "
                            "any --keep every snapshot is kept")
    snapshot_options.add_group_to(parser)
    parser.add_argument("--prefix", metavar="NAME",
                        help=f"tags are NAME-20261127T120000Z (default: {PREFIX}, with --group or --select "
                             f"{PREFIX}-NAME); only snapshots of that prefix are removed")
    parser.add_argument("--initiator", metavar="MEMBER",
                        help="the member that leads each snapshot (default: the first)")
    snapshot_options.add_to(parser)
    parser.add_argument("--timeout", metavar="SECONDS", type=float,
                        help="cancel a snapshot that takes longer (default: no limit)")
    parser.add_argument("--max-failures", metavar="N", type=snapshot_options.count,
                        help="end with exit code 1 when N snapshots in a row have failed (default: "
                             "go on)")
    parser.add_argument("--status", action="store_true",
                        help="tell how the series stands, and do nothing else")
    parser.add_argument("--json", action="store_true",
                        help="print JSON: an object a line for each event")


def plan(options: argparse.Namespace, state: State, quiet: bool) -> Plan:
    """UsageError if the command line is wrong."""
    if options.period is None:
        raise UsageError("name the PERIOD, as in 'hotsnap every 60s', or ask for --status")
    prefix = options.prefix or (
        f"{PREFIX}-{_NO_TAG.sub('-', options.group)}" if options.group else PREFIX)
    bundle.check_tag(prefix + LONGEST)
    chosen = snapshot_options.chosen(options)
    if options.group:
        groups.resolve(state, options.group)
    if options.initiator:
        state.cluster.member(options.initiator)
    return Plan(options.period, series.Keep(options.keep, options.keep_hourly, options.keep_daily),
                Wanted(prefix, options.initiator, options.timeout, quiet,
                       chosen, options.group),
                options.max_failures, options.json)


def status(state: State, as_json: bool) -> None:
    found = series_state.read(state.series)
    if found is None:
        raise HotsnapError(f"no series of snapshots was ever started for cluster "
                           f"{state.cluster.name!r}: 'hotsnap every 60s' does so")
    told = found.status(time.time())
    if as_json:
        print_json({"cluster": state.cluster.name, **told})
        return
    print(table(("SERIES", told["prefix"]), _rows(told)))


def _rows(told: dict[str, Any]) -> list[tuple[str, Any]]:
    success, error = told["last_success"], told["last_error"]
    keeps = ", ".join(f"{count} {name}" for name, count in told["keep"].items())
    return [("command", f"runs as process {told['pid']}" if told["running"] else "does not run"),
            ("period", human_seconds(told["period_s"])),
            ("kept", keeps or "every snapshot"),
            *([("group", told["group"])] if told["group"] else []),
            ("taken", told["taken"]), ("missed", told["missed"]),
            ("failed in a row", told["failed_in_a_row"]), ("removed", told["pruned"]),
            ("there are", len(told["snapshots"])),
            ("under way", told["under_way"] or "-"),
            *([("left behind", f"{told['left_behind']}: cancelled, or went on without the command; "
                "the next start looks")] if told["left_behind"] else []),
            ("last success", f"{success['tag']}, {success['time']}" if success else "-"),
            ("age of the newest", "-" if told["age_s"] is None else human_seconds(told["age_s"])),
            ("last error", f"{error['time']}, {error['text']}" if error else "-"),
            ("next due", told["next_due"] or "-")]
