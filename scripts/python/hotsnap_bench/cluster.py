# SPDX-License-Identifier: GPL-2.0-or-later
"""Three members with real servers and numbered messages, saved again and again: TCP backoff
duration, retransmissions, and connections after a restore. The cluster is quickstart's."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import Any

from hotsnap.commands import lifecycle, snapshot
from hotsnap.errors import HotsnapError
from hotsnap.host import atomic
from hotsnap.model import bundle, cluster
from hotsnap.model.state import State
from hotsnap.qemu.fleet import Fleet
from hotsnap.record import dump
from hotsnap.ui.output import say
from support import trial

from .guest import end, remove_files, with_shell
from support.shell import Shell, tcp_timeouts
from .stats import Line, Series

BETWEEN_SECONDS = 3.0  # longer than what TCP waits before it sends again, a few times over


@dataclass
class Clusters:
    """`timeouts`: retransmission timeouts in all guests in the `seconds` around snapshots;
    `timeouts_idle`: in as many seconds in between; `timeouts_restored`: after the restore."""

    backoff: Series = field(default_factory=lambda: Series("ms"))
    downtime: Series = field(default_factory=lambda: Series("ms"))
    samples: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    timeouts: int = 0
    timeouts_idle: int = 0
    timeouts_restored: int = 0
    checks: list[trial.Check] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return all(check.good for check in self.checks)

    def report(self) -> dict[str, Any]:
        return {"backoff": self.backoff.report(), "downtime_max": self.downtime.report(),
                "seconds": round(self.seconds, 1), "tcp_timeouts": self.timeouts,
                "tcp_timeouts_without_snapshots": self.timeouts_idle,
                "tcp_timeouts_after_restore": self.timeouts_restored,
                "connections_alive": self.alive,
                "after_restore": [dataclasses.asdict(check) for check in self.checks],
                "samples": self.samples}


class Lab:
    def __init__(self, folder: str, files: str, qemu: str):
        self.folder = folder
        os.makedirs(folder)
        path = os.path.join(folder, "cluster.toml")
        atomic.write_bytes(path, trial.cluster_file(files).encode())
        self.state = State(dataclasses.replace(cluster.load(path), qemu=qemu))
        self.shells: dict[str, Shell] = with_shell(self.state)
        self.fleet = Fleet(self.state)
        self.guests = trial.Guests(self.state, self.fleet.running)
        self.last: dict[tuple[str, str, str], dict[str, int]] = {}  # printed before the cut

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end(self.state)
        remove_files(self.folder, self.state, keep_logs=kind is not None)

    def start(self) -> None:
        with self.state.locked():
            lifecycle.up(self.state, self.fleet)
        self.guests.boot()
        self.guests.flow("wait for traffic", 3)

    def timeouts(self) -> int:
        return sum(tcp_timeouts(shell) for shell in self.shells.values())

    def snapshot(self, tag: str, initiator: str) -> bundle.Bundle:
        with self.state.locked():
            return snapshot.snapshot(self.state, self.fleet, tag, initiator, quiet=True)

    def restore(self, saved: bundle.Bundle) -> None:
        with self.state.locked():
            self.fleet.kill(self.fleet.names())
            self.guests.read()
            self.guests.separate("restored")
            snapshot.restore(self.state, self.fleet, saved, quiet=True)

    def complain(self) -> None:
        self.guests.read()
        if failures := self.guests.failures():
            raise HotsnapError(f"a guest failed: {failures[0]}; see {self.folder}")


def measure(folder: str, files: str, qemu: str, repeat: int) -> Clusters:
    result = Clusters()
    say("  start three members and their servers")
    with Lab(os.path.join(folder, "cluster"), files, qemu) as lab:
        lab.start()
        counters = lab.timeouts()
        for turn in range(repeat):
            began = time.monotonic()
            saved = _snapshot(lab, turn, result)
            time.sleep(BETWEEN_SECONDS)
            with_snapshot = lab.timeouts()
            seconds = time.monotonic() - began
            # The control: a host that is too busy makes guests retransmit without any snapshot.
            time.sleep(seconds)
            without = lab.timeouts()
            lab.complain()
            result.seconds += seconds
            result.timeouts += with_snapshot - counters
            result.timeouts_idle += without - with_snapshot
            result.samples[-1].update(tcp_timeouts=with_snapshot - counters,
                                      tcp_timeouts_without_snapshot=without - with_snapshot)
            say(f"  {turn + 1}/{repeat}: backoff {result.backoff.samples[-1]:.2f} ms, longest "
                f"pause {result.downtime.samples[-1]:.2f} ms; in {seconds:.0f} s "
                f"{with_snapshot - counters} TCP timeouts, in as many without a snapshot "
                f"{without - with_snapshot}")
            if turn + 1 < repeat:
                shutil.rmtree(saved.path)
                counters = without
        _restore(lab, saved, counters, result)
    return result


def _snapshot(lab: Lab, turn: int, result: Clusters) -> bundle.Bundle:
    """Each member is the initiator in its turn."""
    lab.guests.read()
    lab.last = lab.guests.counters()
    before = os.getloadavg()[0]
    initiator = list(trial.MEMBERS)[turn % len(trial.MEMBERS)]
    saved = lab.snapshot(f"t{turn}", initiator)
    result.backoff.add(saved.backoff_max_ms() or 0)
    result.downtime.add(saved.downtime_max_ms())
    result.samples.append({
        "initiator": initiator, "backoff_max_ms": saved.backoff_max_ms(),
        "pairs": dump(saved.manifest.cut.pairs), "load_average": before,
        "members": [{
            "name": member.name, "cause": member.cause, "pause_ms": member.pause.ms,
            "begin_ms": (member.pause.begin_ns - min(
                m.pause.begin_ns for m in saved.members)) / 1e6,
            "steps_us": {step.name: step.us for step in member.pause.steps},
            "held": member.channel.held, "frames": member.channel.frames,
        } for member in saved.members]})
    return saved


def _restore(lab: Lab, saved: bundle.Bundle, timeouts: int, result: Clusters) -> None:
    """`timeouts`: what the guests had counted just before that snapshot."""
    say("  kill the members and restore the last snapshot")
    lab.restore(saved)
    lab.guests.flow("watch the restored guests", 4)
    result.timeouts_restored = lab.timeouts() - timeouts
    lab.guests.read()
    result.checks = trial.judge(lab.last, lab.guests.counters())
    failures = lab.guests.failures()
    result.checks.append(trial.Check("no guest complains", not failures,
                                     "; ".join(failures) or "none"))


def lines(clusters: Clusters | None) -> list[Line]:
    if clusters is None:
        return []
    good = sum(check.good for check in clusters.checks)
    return [
        Line("backoff of three members", clusters.backoff, target="at most 20"),
        Line("longest pause of three members", clusters.downtime),
        Line("TCP timeouts during snapshots", clusters.timeouts, "count", "0"),
        Line("TCP timeouts without snapshots", clusters.timeouts_idle, "count"),
        Line("checks of restored connections", good, f"of {len(clusters.checks)}",
             str(len(clusters.checks))),
    ]
