# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of hotsnap."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__, errors
from .commands import (beside, every, every_options, export_options, group, lifecycle, listing,
                       ship_options, snapshot, snapshot_options, verify)
from .errors import HotsnapError, Interrupted, UsageError
from .model import bundle, cluster, recoveries
from .model.state import State
from .qemu.fleet import Fleet
from .ui import timeline
from .ui.output import print_json, say

DEFAULT_FILE = "cluster.toml"
EXIT_CODES = """exit codes:
  0    done; for verify: nothing is damaged; an export by NBD: ended by a signal
  1    failed: one message on standard error says why and what to do
  2    the command line or the cluster file is wrong; nothing was touched
  130  interrupted; what was under way was undone
"""

Handler = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options, more = parser.parse_known_args(arguments)
    if more and ("more" not in options or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    options.more = more
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return options.handler(options)
    except KeyboardInterrupt:
        say("hotsnap: interrupted")
        return errors.EXIT_INTERRUPTED
    except HotsnapError as error:
        say(f"hotsnap: {error}")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_FAILED
    except OSError as error:
        say(f"hotsnap: {error.filename or 'the system'}: {error.strerror}")
        return errors.EXIT_FAILED


def _interrupt(number: int, _: Any) -> None:
    raise Interrupted(f"ended by {signal.Signals(number).name}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hotsnap", description="Save a running cluster of VMs as one instant, and bring it "
        "back.", epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-f", "--file", metavar="TOML", help="cluster file "
                        f"(default: $HOTSNAP_CLUSTER, else {DEFAULT_FILE})")
    parser.add_argument("--as", metavar="NAME", dest="recovery", help="the recovery of that name "
                        "beside the cluster, in its place; with restore: the one to be made")
    parser.add_argument("--version", action="version", version=f"hotsnap {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: Handler, text: str, json: bool = True
                ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".",
                                  epilog=EXIT_CODES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(handler=handler)
        # The option is accepted after the command as well, and wins there.
        sub.add_argument("-f", "--file", metavar="TOML", default=argparse.SUPPRESS,
                         help="cluster file")
        sub.add_argument("--as", metavar="NAME", dest="recovery", default=argparse.SUPPRESS,
                         help="start the snapshot beside the cluster, which goes on, as a recovery "
                              "of that name, with networks of its own" if name == "restore"
                         else "the recovery of that name beside the cluster, in its place")
        if json:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = command("up", _up, "start the members that do not run, with their network")
    sub.add_argument("--fresh", action="store_true",
                     help="start over from the golden images: what the disks hold is dropped, "
                          "snapshots are kept")
    command("ps", _ps, "list the members: state, phase, uptime, disk layers")
    sub = command("snapshot", _snapshot, "save the running cluster as one instant")
    sub.add_argument("tag", metavar="TAG")
    sub.add_argument("--initiator", metavar="MEMBER",
                     help="the member that leads the snapshot (default: the first)")
    snapshot_options.add_group_to(sub)
    sub.add_argument("--note", metavar="TEXT", help="words to remember it by, for ls and show")
    snapshot_options.add_to(sub)
    sub.add_argument("--timeout", metavar="SECONDS", type=float,
                     help="cancel the snapshot when it takes longer (default: no limit)")
    sub = command("group", _group, "name sets of disks, for snapshots of disks")
    sub.add_argument("action", metavar="add|rm|ls", choices=("add", "rm", "ls"),
                     help="add: make a group, or add disks to it; rm: remove a group, or disks "
                          "from it; ls: list all groups")
    sub.add_argument("name", metavar="NAME", nargs="?", help="the group")
    sub.add_argument("disks", metavar="MEMBER[:DISK]|LABEL=VALUE", nargs="*",
                     help="all disks of a member, or one, by its number in the cluster file "
                          "(disk0 is the first) or its serial; or all with a label")
    sub = command("every", _every, "take snapshots regularly, and remove old ones", json=False)
    every_options.add_to(sub)
    sub = command("ship", _ship, "send the snapshots of a group of disks to a second store")
    ship_options.add_to(sub)
    command("ls", _ls, "list the snapshots, incomplete and damaged ones included")
    sub = command("show", _show, "show one snapshot: pauses, backoff, pages by manner")
    sub.add_argument("tag", metavar="TAG|PATH")
    sub.add_argument("--svg", metavar="FILE", help="also draw its timeline")
    sub = command("verify", _verify, "check every checksum of a snapshot")
    sub.add_argument("tag", metavar="TAG|PATH")
    sub = command("restore", _restore, "bring the cluster back from a snapshot; what its disks "
                  "hold since then is dropped. From one of disks, its members boot")
    sub.add_argument("tag", metavar="TAG|PATH")
    sub.add_argument("--replace", "--force-stop", action="store_true",
                     help="end the cluster first if it runs")
    sub.add_argument("--memory", choices=("lazy", "full"),
                     help="lazy: the guests run at once, each page of memory is loaded, and its "
                          "checksum compared, when it is needed first; full: all of it before "
                          "(default: lazy where userfaultfd is permitted, else full)")
    sub.add_argument("--bandwidth", metavar="SIZE", type=snapshot_options.size,
                     help="with --memory lazy: limit of each member's load in the background, in "
                          "bytes per second, as in 200M")
    sub.add_argument("--window", metavar="SIZE", type=snapshot_options.size,
                     help="with --memory lazy: how much of its working set each member loads before "
                          "it goes on (default: as much as it needs so that loading stays ahead of "
                          "the guest)")
    sub.add_argument("--no-verify", action="store_true",
                     help="do not check every checksum first: the guests start sooner, but may "
                          "find damaged disks, and damaged memory if it is loaded in full")
    sub.add_argument("--timeout", metavar="SECONDS", type=float,
                     help="cancel the restore when it takes longer (default: no limit)")
    sub = command("export", _export, "give a snapshot's disks to other programs, each as one that "
                  "lies over nothing: as files in FOLDER, or by NBD; or the whole snapshot as one file")
    export_options.add_to(sub)
    sub = command("import", _import, "make a cluster's folder of a snapshot that 'hotsnap export' "
                  "has put into one file")
    export_options.add_import_to(sub)
    sub = command("rm", _rm, "remove a snapshot and join the disk layers that only it needed")
    sub.add_argument("tag", metavar="TAG")
    sub = command("recovery", _recovery, "list the recoveries that 'restore --as' has made, or "
                  "remove one")
    sub.add_argument("action", metavar="ls|rm", choices=("ls", "rm"),
                     help="ls: list all; rm: remove one that is down, and give back its space")
    sub.add_argument("name", metavar="NAME", nargs="?", help="the recovery")
    sub = command("down", _down, "end all members and remove their network")
    sub.add_argument("--force", action="store_true",
                     help="kill the members, as a power failure would")
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, in the order of --help."""
    return next(action.choices for action in parser._actions  # pylint: disable=protected-access
                if isinstance(action, argparse._SubParsersAction))


def _open(options: argparse.Namespace) -> tuple[State, Fleet]:
    """The cluster that a command is for: that of the cluster file, or a recovery beside it."""
    state, fleet = _open_original(options)
    if options.recovery is not None:
        state = State(cluster.load(recoveries.find(state.directory, options.recovery)))
        fleet = Fleet(state)
    return state, fleet


def _open_original(options: argparse.Namespace) -> tuple[State, Fleet]:
    path = options.file or os.environ.get("HOTSNAP_CLUSTER") or DEFAULT_FILE
    if not options.file and not os.path.exists(path):
        raise UsageError(f"no cluster file {path} here: name one with --file or $HOTSNAP_CLUSTER")
    state = State(cluster.load(path))
    recoveries.check_own(state.directory)
    return state, Fleet(state)


def _bundle_path(options: argparse.Namespace) -> str:
    """TAG or PATH; what has a slash is a path, so that a bundle can be shown without its
    cluster."""
    if os.sep in options.tag:
        return os.path.abspath(options.tag)
    state, _ = _open(options)
    return os.path.join(state.bundles, options.tag)


def _up(options: argparse.Namespace) -> int:
    state, fleet = _open(options)
    with state.locked():
        started = lifecycle.up(state, fleet, options.fresh)
    if options.json:
        print_json({"started": started})
    else:
        print(f"started {', '.join(started)}" if started else "all members run already")
    return 0


def _ps(options: argparse.Namespace) -> int:
    lifecycle.ps(*_open(options), options.json)
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    state, fleet = _open(options)
    chosen = snapshot_options.chosen(options)
    with state.locked():
        made = snapshot.snapshot(state, fleet, options.tag, options.initiator, options.timeout,
                                 options.json, options.group, options.note, **chosen)
    if options.json:
        print_json(listing.summary(state.bundles, made.tag))
    else:
        print(listing.report(made))
    return 0


def _group(options: argparse.Namespace) -> int:
    group.run(_open(options)[0], options.action, options.name, options.disks, options.json)
    return 0


def _every(options: argparse.Namespace) -> int:
    state, _ = _open(options)
    if options.status:
        every_options.status(state, options.json)
        return 0
    plan = every_options.plan(options, state, quiet=options.json or not sys.stderr.isatty())
    stop = every.Stop()
    stop.install()
    return every.Every(plan, lambda: _open(options), stop=stop).run()


def _ship(options: argparse.Namespace) -> int:
    return ship_options.run(options, lambda: _open(options),
                            quiet=options.json or not sys.stderr.isatty())


def _ls(options: argparse.Namespace) -> int:
    listing.ls(_open(options)[0], options.json)
    return 0


def _show(options: argparse.Namespace) -> int:
    found = bundle.read(_bundle_path(options))
    if options.svg:
        timeline.draw(found, options.svg)
    if options.json:
        print_json({**found.manifest.dump(), "notes": found.notes().dump()})
    else:
        print(listing.details(found))
    return 0


def _verify(options: argparse.Namespace) -> int:
    whole = verify.report(bundle.read(_bundle_path(options)), options.json)
    return 0 if whole else errors.EXIT_FAILED


def _restore(options: argparse.Namespace) -> int:
    if options.recovery is not None:
        return _restore_as(options)
    state, fleet = _open(options)
    path = _bundle_path(options)
    with state.locked():
        saved = bundle.read(path)
        names = fleet.names()
        if saved.only_disks:
            names = group.restore(state, fleet, saved, options.replace, not options.no_verify,
                                  options.json)
            how, told = None, "boot from its disks"
        else:
            how = snapshot.restore(state, fleet, saved, options.replace, options.timeout,
                                   not options.no_verify, options.json, options.memory,
                                   options.bandwidth, options.window)
            told = ("go on; memory is loaded on demand, and the rest in the background"
                    if how == "lazy" else "go on; memory was loaded in full")
    if options.json:
        print_json({"restored": saved.tag, "members": names, "memory": how})
    else:
        print(f"restored {saved.tag}: {', '.join(names)} {told}")
    return 0


def _export(options: argparse.Namespace) -> int:
    return export_options.run(options, lambda: _open(options))


def _import(options: argparse.Namespace) -> int:
    return export_options.run_import(options)


def _restore_as(options: argparse.Namespace) -> int:
    if options.replace:
        raise UsageError("--replace does not go with --as: a recovery beside the cluster replaces "
                         "nothing")
    name, options.recovery = options.recovery, None  # the tag is one of the original
    state, fleet = _open(options)
    made = beside.restore(state, fleet, _bundle_path(options), name, not options.no_verify,
                          options.json, timeout=options.timeout, memory=options.memory,
                          bandwidth=options.bandwidth, window=options.window)
    if options.json:
        print_json({"restored": made.tag, "as": made.name, "file": made.file,
                    "members": made.members, "memory": made.memory, "remarks": made.remarks})
        return 0
    how = "go on" if made.memory else "boot from its disks"
    print(f"restored {made.tag} as {made.name}: {', '.join(made.members)} {how} beside the cluster; "
          f"'hotsnap ps --as {made.name}' shows them")
    for remark in made.remarks:
        say(remark)
    return 0


def _recovery(options: argparse.Namespace) -> int:
    beside.run(*_open(options), options.action, options.name, options.json)
    return 0


def _rm(options: argparse.Namespace) -> int:
    state, fleet = _open(options)
    with state.locked():
        done = listing.rm(state, fleet, options.tag, options.json)
    if options.json:
        print_json(done)
    else:
        listing.tell_removed(options.tag, done)
    return 0


def _down(options: argparse.Namespace) -> int:
    state, fleet = _open(options)
    with state.locked():
        ended = lifecycle.down(state, fleet, options.force)
    if options.json:
        print_json({"ended": ended})
    else:
        print(f"ended {', '.join(ended)}" if ended else "no member ran")
    return 0
