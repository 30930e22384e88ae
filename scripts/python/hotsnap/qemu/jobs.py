# SPDX-License-Identifier: GPL-2.0-or-later
"""Following a QEMU job to its end: progress, cancel, and the dismissal that this project's jobs
ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..errors import HotsnapError
from .qmp import Qmp, QmpError, QmpFailure

POLL = 0.1
CANCEL_TIMEOUT = 60.0


class JobFailed(HotsnapError):
    """The job ended with an error, which is the text."""


def find(qmp: Qmp, job: str) -> dict[str, Any] | None:
    return next((j for j in qmp.execute("query-jobs") if j["id"] == job), None)


def follow(qmp: Qmp, job: str, timeout: float | None = None,
           on_poll: Callable[[dict[str, Any], list[dict[str, Any]]], None] | None = None,
           on_pending: Callable[[], None] | None = None) -> None:
    """Returns once the job has succeeded and is dismissed; JobFailed says why it has not.

    `on_poll` gets the entry of query-jobs and the events since the call before. `on_pending` is
    called when only job-finalize is left to do. A job that is READY is completed.
    KeyboardInterrupt, an error of a callback, or the timeout cancels the job, waits for its end,
    and is raised. A QmpFailure is raised at once, and the job may go on: QEMU cannot be asked to
    cancel it.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        _watch(qmp, job, deadline, on_poll, on_pending)
    except (JobFailed, QmpFailure):
        raise  # it has ended, or QEMU cannot be asked to end it
    except (KeyboardInterrupt, HotsnapError):
        cancel(qmp, job)
        raise


def _watch(qmp: Qmp, job: str, deadline: float | None,
           on_poll: Callable[[dict[str, Any], list[dict[str, Any]]], None] | None,
           on_pending: Callable[[], None] | None) -> None:
    completed = finalized = False
    while True:
        entry = find(qmp, job)
        if entry is None:
            raise JobFailed(f"job {job} vanished")
        if on_poll is not None:
            on_poll(entry, qmp.events())
        if entry["status"] == "concluded":
            qmp.execute("job-dismiss", {"id": job})
            if "error" in entry:
                raise JobFailed(entry["error"])
            return
        if entry["status"] == "ready" and not completed:
            completed = True
            qmp.execute("job-complete", {"id": job})
            continue  # the guest's disk waits until the job is finalized: do not sleep
        if entry["status"] == "pending" and not finalized:
            finalized = True
            if on_pending is not None:
                on_pending()
            qmp.execute("job-finalize", {"id": job})
            continue
        if deadline is not None and time.monotonic() > deadline:
            raise HotsnapError("it took longer than the --timeout given and was cancelled")
        time.sleep(0.005 if completed else POLL)


def clear_leftover(qmp: Qmp, job: str) -> None:
    """Dismisses a job whose command was killed."""
    entry = find(qmp, job)
    if entry is None:
        return
    if entry["status"] != "concluded":
        raise HotsnapError("an earlier command was killed, but what it began is still under way: "
                           "wait until it has ended ('hotsnap ls' shows it then)")
    qmp.execute("job-dismiss", {"id": job})


def cancel(qmp: Qmp, job: str) -> None:
    """Cancels a job and dismisses it; does nothing if there is none."""
    deadline = time.monotonic() + CANCEL_TIMEOUT
    asked = False
    while time.monotonic() < deadline:
        entry = find(qmp, job)
        if entry is None:
            return
        if entry["status"] == "concluded":
            qmp.execute("job-dismiss", {"id": job})
            return
        if not asked:
            try:
                qmp.execute("job-cancel", {"id": job})
            except QmpError:
                pass  # it is ending just now
            asked = True
        time.sleep(0.02)
    raise HotsnapError(f"job {job} was cancelled but does not end: see query-jobs on the member")
