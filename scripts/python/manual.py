# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints the man page hotsnap(1), made of the command's own parser: its options are the
parser's."""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from hotsnap import __version__  # noqa: E402 (the path comes first)
from hotsnap.cli import DEFAULT_FILE, EXIT_CODES, build_parser, commands_of  # noqa: E402

DESCRIPTION = """\
saves a cluster of QEMU/KVM virtual machines that talk to each other as one consistent instant:
memory, devices, disks and packets in flight, while the cluster goes on working. It brings the
cluster back from that instant, TCP connections included.

A cluster is described in a TOML file, and has a folder beside that file, which holds its disks,
its logs and its snapshots.
"""
ENVIRONMENT = (
    ("HOTSNAP_CLUSTER", "The cluster file, if \\-\\-file does not name one."),
    ("HOTSNAP_QEMU", "HotSnap's qemu\\-system\\-x86_64. Without this variable the cluster file's "
     "key qemu counts, then PREFIX/libexec/hotsnap/qemu\\-system\\-x86_64 of the prefix that "
     "hotsnap is installed in, then build/qemu of the checkout that hotsnap is run from. "
     "qemu\\-img and qemu\\-storage\\-daemon are taken from the same folder, else from PATH."))
FILES = (
    (DEFAULT_FILE, "The cluster file, if neither \\-\\-file nor HOTSNAP_CLUSTER names one."),
    (".hotsnap/NAME", "The folder of the cluster NAME, if the cluster file does not name one. "
     "Snapshots are in its folder bundles."),
    (".hotsnap/NAME/recoveries", "Recoveries beside that cluster, which hotsnap restore \\-\\-as "
     "makes: each is a cluster of its own, with a file cluster.toml in its folder."),
    ("/etc/hotsnap/NAME.conf", "Of the systemd service hotsnap\\-every@NAME: HOTSNAP_CLUSTER is "
     "the cluster file, EVERY is what follows hotsnap every."))


def escape(text: str) -> str:
    """Text as roff prints it: a dash of an option stays one, and no line is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line
                     for line in text.splitlines())


def title(action: argparse.Action) -> str:
    """An option with its argument, or an argument's name."""
    if not action.option_strings:
        return f"\\fI{escape(str(action.metavar or action.dest))}\\fR"
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in action.option_strings)
    if action.nargs == 0:
        return names
    value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    return f"{names} \\fI{escape(str(value))}\\fR"


def options(parser: argparse.ArgumentParser) -> list[str]:
    lines = []
    for action in parser._actions:  # pylint: disable=protected-access
        if action.option_strings:
            lines += [".TP", title(action), sentence(action.help or "")]
    return lines


def sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return escape(text[:1].upper() + text[1:] + ".") if text else ""


def synopsis(name: str, parser: argparse.ArgumentParser) -> str:
    values = [title(action) for action in parser._actions  # pylint: disable=protected-access
              if not action.option_strings]
    return " ".join([f"\\fB{escape(name)}\\fR", *values, "[\\fIOPTION\\fR]..."])


def page() -> str:
    parser = build_parser()
    lines = [f'.TH HOTSNAP 1 "" "hotsnap {__version__}" "User Commands"',
             ".SH NAME", "hotsnap \\- save a running cluster of virtual machines as one instant",
             ".SH SYNOPSIS",
             "\\fBhotsnap\\fR [\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...",
             ".SH DESCRIPTION", ".B hotsnap", escape(DESCRIPTION.split("\n\n")[0]), ".PP",
             escape(DESCRIPTION.split("\n\n")[1].strip()), ".SH OPTIONS", *options(parser),
             ".SH COMMANDS"]
    for name, command in commands_of(parser).items():
        lines += [f".SS {synopsis(name, command)}", escape(command.description or ""),
                  *options(command)]
    lines.append(".SH EXIT STATUS")
    for line in EXIT_CODES.splitlines()[1:]:
        code, _, meaning = line.strip().partition(" ")
        lines += [".TP", f"\\fB{code}\\fR", sentence(meaning)]
    for heading, entries in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {heading}")
        for name, text in entries:
            lines += [".TP", f"\\fI{escape(name)}\\fR", text]
    lines += [".SH SEE ALSO", ".BR qemu\\-img (1),", ".BR qemu\\-storage\\-daemon (1)"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
