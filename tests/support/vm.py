# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU of a test: its process, its QMP connection, its console."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hotsnap.host.netns import Network
from hotsnap.qemu import launch
from hotsnap.qemu.qmp import Qmp

from .outcome import Failed, check, wait_until
from .paths import FIRMWARE, PATIENCE, QEMU
from .workplace import Workplace


class Vm:
    """One QEMU process. `args` are QEMU's; QMP and the console are added."""

    def __init__(self, place: Workplace, name: str, args: list[str], *, qemu: Path | None = None,
                 network: Network | None = None):
        self.place, self.name = place, name
        self.directory = place.path / name
        self.directory.mkdir(exist_ok=True)
        serial = 0
        while (self.directory / f"console-{serial}.log").exists():
            serial += 1
        self.console = self.directory / f"console-{serial}.log"
        self.messages = self.directory / f"qemu-{serial}.log"
        self.progress: list[tuple[int, int]] = []
        socket = self.directory / "qmp.sock"
        socket.unlink(missing_ok=True)
        self.args = [str(qemu or QEMU), *FIRMWARE, "-display", "none", "-nodefaults",
                     "-name", f"guest={name},debug-threads=on",
                     "-qmp", f"unix:{socket},server=on,wait=off",
                     "-serial", f"file:{self.console}", *args]
        self.process = launch.start(self.args, str(self.messages), network, umask=-1)
        place.vms.append(self)
        try:
            self.qmp = Qmp.connect(socket, timeout=PATIENCE,
                                   alive=lambda: not self.ended())
        except Exception as error:
            self.process.poll()
            raise Failed(f"QEMU did not start: {self.messages.read_text().strip()}") from error

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def text(self) -> str:
        return self.console.read_text(errors="replace")

    def wait_console(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            ended = self.ended()  # asked before its last output is read
            match = re.search(pattern, self.text())
            check(match or not ended,
                  f"{self.name}: QEMU ended: {self.messages.read_text().strip()[-500:]}")
            return match

        return wait_until(found, lambda: f"{self.name}: '{pattern}' did not appear on the console "
                          f"in {timeout:.0f} s; last lines: {self.text()[-500:]!r}", timeout)

    def lines_after(self, offset: int) -> str:
        return self.text()[offset:]

    def phase(self) -> str:
        return self.qmp.execute("query-hotsnap")["phase"]

    def reach(self, *phases: str) -> None:
        wait_until(lambda: self.phase() in phases,
                   lambda: f"{self.name}: phase {self.phase()} instead of {' or '.join(phases)}",
                   interval=0.01)

    def running(self) -> bool:
        return not self.ended() and self.qmp.execute("query-status")["status"] == "running"

    def threads(self) -> list[tuple[int, str]]:
        """Ids and names of QEMU's threads."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(ProcessLookupError, FileNotFoundError):  # the thread has ended
                found.append((int(task.name), (task / "comm").read_text().strip()))
        return found

    def real_time_threads(self) -> list[str]:
        """Names of the threads with a real-time priority; there are none except around a cut."""
        names = []
        for tid, name in self.threads():
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK:
                    names.append(name)
        return sorted(names)

    def job(self, command: str, arguments: dict[str, Any], timeout: float = 300) -> str | None:
        """Runs a job to its end; returns its error, or None."""
        identity = arguments["job-id"]
        self.qmp.execute(command, arguments)
        return self.wait_job(identity, timeout)

    def wait_job(self, identity: str, timeout: float = 300) -> str | None:
        """Returns the job's error, or None; `progress` then holds its progress as (done, total)."""
        deadline = time.monotonic() + timeout
        self.progress = []
        while time.monotonic() < deadline:
            job = next(j for j in self.qmp.execute("query-jobs") if j["id"] == identity)
            self.progress.append((job["current-progress"], job["total-progress"]))
            if job["status"] == "concluded":
                self.qmp.execute("job-dismiss", {"id": identity})
                return job.get("error")
            time.sleep(0.05)
        raise Failed(f"job {identity} did not end: {job}")

    def phases(self, tag: str, timeout: float = PATIENCE) -> list[str]:
        """The phases in the HOTSNAP_PHASE events of snapshot `tag`, up to its end; a restore's tag
        is empty."""
        found: list[str] = []
        while not found or found[-1] not in ("committed", "aborted", "in-doubt", "restored"):
            event = self.qmp.wait_event("HOTSNAP_PHASE", timeout, {"tag": tag})
            found.append(event["data"]["phase"])
        return found
