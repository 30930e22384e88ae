# SPDX-License-Identifier: GPL-2.0-or-later
"""The root of all exceptions of this package, and the exit code that each leads to."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class HotsnapError(Exception):
    """A command cannot do its work; the text is one message that says what to do.

    All exceptions that this package raises on purpose derive from this class.
    """

    exit_code = EXIT_FAILED


class UsageError(HotsnapError):
    """The command line or the cluster file is wrong; nothing was touched."""

    exit_code = EXIT_USAGE


class Interrupted(HotsnapError):
    """The user or a signal ended the command, which has tidied up after itself."""

    exit_code = EXIT_INTERRUPTED
