# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of scripts/check."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Callable

from . import fork, guests, process, programs, style
from .context import ALL, DEFAULT, CannotRun, Context
from .results import FAILED, Report, Result

# In order: quick groups, and those that later ones build upon, come first. The programs of a group
# run while the next group is built, and the rest when all is built.
GROUPS = {
    "style": (style.style, "formatting, shell and Python faults, licence lines, forbidden names"),
    "unit": (programs.unit, "unit, property and C header tests of both libraries; scripts"),
    "simulation": (programs.simulation, "the cluster protocol over a simulated network and clock"),
    "sanitize": (programs.sanitize, "the unit tests under address, undefined and thread sanitizer"),
    "patches": (fork.patches, "the series on the newest and the oldest QEMU 10.0.x, checkpatch"),
    "vm": (guests.vm, "real guests: image identity, consistent cut, restore, failures"),
    "qtest": (fork.qtest, "QEMU's own qtests on the fork"),
    "kvm": (guests.kvm, "the patched KVM"),
}

DESCRIPTION = """\
Installs what is missing, builds, runs the tests, and ends with the line
"N passed, N failed, N skipped". Without a name it runs all groups.

What takes long and adds breadth alone (long simulations, every device, all of
QEMU's migration tests) is left to --all; docs/internals/checks.md says what.
"""


def arguments(argv: list[str]) -> argparse.Namespace:
    groups = "\n".join(f"  {name:<11} {text}" for name, (_, text) in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/check", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"groups:\n{groups}\n\nHOTSNAP_CHECK_JOBS sets how many programs run at once "
               "(default: two, on one processor\none). Logs are in build/logs. Status: 0 nothing failed, 1 something "
               "did,\n2 wrong usage, 128 + N ended by signal N.")
    parser.add_argument("groups", metavar="GROUP", nargs="*", help="run these groups only")
    parser.add_argument("--all", action="store_true", help="everything, not only what fits 40 minutes")
    parser.add_argument("--json", metavar="FILE",
                        help="also write every result, and the seconds of every program, to FILE")
    parser.add_argument("--list", action="store_true", help="name the groups, and do nothing")
    chosen = parser.parse_args(argv)
    for name in chosen.groups:
        if name not in GROUPS:
            parser.error(f"no group is called '{name}'; there are: {', '.join(GROUPS)}")
    return chosen


def take_build_lock(build: str) -> int:
    """One build or check at a time in a checkout; scripts/build sees that we hold the lock."""
    os.makedirs(build, exist_ok=True)
    handle = os.open(os.path.join(build, ".lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another build or check is running in this checkout: waiting for it",
              file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    os.environ["HOTSNAP_LOCK_HELD"] = "1"
    return handle


def run_group(context: Context, name: str) -> None:
    function, description = GROUPS[name]
    context.report.begin(name, description)
    guarded(context, function, context)


def guarded(context: Context, function: Callable[..., None], *arguments: Context) -> None:
    """An error is a failure of the group; the other groups still count."""
    group = context.report.group
    try:
        function(*arguments)
    except CannotRun as error:
        context.report.add([Result(group, "group", FAILED, str(error))])
    except Exception as error:  # pylint: disable=broad-except
        context.report.add([Result(group, "group", FAILED, f"{type(error).__name__}: {error}")])


def main(argv: list[str]) -> int:
    chosen = arguments(argv)
    if chosen.list:
        for name, (_, text) in GROUPS.items():
            print(f"{name}\t{text}")
        return 0
    tier = ALL if chosen.all else DEFAULT
    report = Report(tier=tier)
    context = Context(report, tier=tier, groups=chosen.groups or list(GROUPS))
    process.install()
    status = 0
    try:
        if not os.environ.get("HOTSNAP_LOCK_HELD"):
            take_build_lock(context.build)
            report.started = time.monotonic()  # others' time is not ours
        for name in GROUPS:
            if name in context.groups:
                run_group(context, name)
        guarded(context, context.finish)
    except process.Interrupted as interrupt:
        context.abandon(interrupt)
        report.interrupt(str(interrupt))
        status = interrupt.status
    context.scratch.close()
    if chosen.json:
        report.write_json(chosen.json)
    report.say(report.times())
    report.say(report.summary())
    return status or (1 if report.count(FAILED) else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
