# SPDX-License-Identifier: GPL-2.0-or-later
"""export and import: their command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..errors import UsageError
from ..model.state import State
from ..qemu.fleet import Fleet
from ..ui.output import human_size, print_json, say
from . import archive, archive_import, export

Open = Callable[[], tuple[State, Fleet]]


def add_to(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(more=None)  # disks that follow an option
    sub.add_argument("tag", metavar="TAG")
    sub.add_argument("folder", metavar="FOLDER", nargs="?",
                     help="where MEMBER-DISK.qcow2 is made for each disk; none of them may exist")
    sub.add_argument("disks", metavar="MEMBER[:DISK]", nargs="*",
                     help="all disks of a member, or one (default: all of the snapshot)")
    sub.add_argument("--format", choices=export.FORMATS,
                     help=f"of the files (default: {export.FORMATS[0]})")
    sub.add_argument("--nbd", metavar="SOCKET",
                     help="instead of files: serve the disks on this Unix socket, read-only, until "
                          "Ctrl-C or SIGTERM; each is an export named MEMBER:DISK")
    sub.add_argument("--archive", metavar="FILE",
                     help="instead of disks: the whole snapshot with all that it needs as one file, "
                          "a tar file compressed by zstd, which 'hotsnap import' makes a cluster's "
                          "folder of, on this host or another one")
    sub.add_argument("--no-images", action="store_true",
                     help="with --archive: leave out golden images, discs and kernels; where it is "
                          "imported they must be at the same paths")
    sub.add_argument("--no-verify", action="store_true",
                     help="do not compare checksums first: damage may get into the export")


def add_import_to(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("archive", metavar="FILE")
    sub.add_argument("folder", metavar="FOLDER", help="to be made; FOLDER/cluster.toml is the "
                     "cluster file then")
    sub.add_argument("--host-images", action="store_true",
                     help="the guests may read the images of this host that the archive names and "
                          "has not")
    sub.add_argument("--no-verify", action="store_true",
                     help="do not check every checksum of the snapshot; the archive's own is "
                          "checked in any case")


def run(options: argparse.Namespace, open_cluster: Open) -> int:
    words = [word for word in (options.folder, *options.disks, *options.more) if word is not None]
    if options.nbd and options.format:
        raise UsageError("--format is of files: leave it out with --nbd")
    if options.no_images and not options.archive:
        raise UsageError("--no-images goes with --archive: leave it out")
    if options.archive:
        return _archive(options, words, open_cluster)
    if not options.nbd and not words:
        raise UsageError("name the folder to write to, or --nbd and a socket, or --archive and a "
                         "file")
    state, fleet = open_cluster()
    if options.nbd:
        export.serve(state, fleet, options.tag, options.nbd, words, not options.no_verify,
                     options.json)
        return 0
    made = export.to_folder(state, fleet, options.tag, words[0], words[1:],
                            options.format or export.FORMATS[0], not options.no_verify,
                            options.json)
    if options.json:
        print_json(made)
    else:
        for row in made["disks"]:
            print(f"{row['file']}: {human_size(row['bytes'])} on disk")
        print(f"exported {options.tag}; disks: {len(made['disks'])}"
              + ("" if made["verified"] else ", whose checksums were not compared"))
    return 0


def _archive(options: argparse.Namespace, words: list[str], open_cluster: Open) -> int:
    if words or options.nbd or options.format:
        raise UsageError("--archive is of the whole snapshot: no folder or disk, --nbd or --format "
                         "goes with it")
    made = archive.save(*open_cluster(), options.tag, options.archive, not options.no_images,
                        not options.no_verify, options.json)
    if options.json:
        print_json(made)
        return 0
    for path in made["left_out"]:
        say(f"left out: {path}")
    for name, args in made["args"].items():
        say(f"files that the arguments of member {name} name are not part of it: {' '.join(args)}")
    print(f"exported {options.tag} to {made['archive']}: {human_size(made['bytes'])}"
          + ("" if made["verified"] else "; checksums were not compared"))
    return 0


def run_import(options: argparse.Namespace) -> int:
    made = archive_import.load(options.archive, options.folder, not options.no_verify, options.json,
                               options.host_images)
    if options.json:
        print_json(made)
        return 0
    archive_import.tell(made)
    print(f"imported {made['imported']} of {', '.join(made['members'])}: 'hotsnap -f {made['file']} "
          f"restore {made['imported']}' brings it back")
    return 0
