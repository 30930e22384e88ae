#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""hotsnap every over a running cluster: regular snapshots of which each verifies, old ones merged
away while the guests write, and a SIGKILL in the middle of a snapshot and of a removal."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.operated import ENVIRONMENT, Operator
from support.outcome import Failed, Report, check, wait_until
from support.paths import PATIENCE
from support.tier import left_to_all
from support.workplace import Workplace

KEEP = 2
PERIOD = "4s"


class Series:
    """A run of the command, its events read as they come."""

    def __init__(self, operator: Operator, *options: str):
        self.log = operator.state / "events"
        self.words = operator.state / "words"
        with open(self.log, "wb") as out, open(self.words, "wb") as err:
            self.process = subprocess.Popen(
                operator.command("every", PERIOD, "--keep", str(KEEP), "--json", *options),
                env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def events(self, name: str) -> list[dict]:
        lines = self.log.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if event["event"] == name]

    def reach(self, name: str, count: int) -> None:
        wait_until(lambda: len(self.events(name)) >= count,
                   lambda: f"{len(self.events(name))} events '{name}', not {count} (exit code "
                           f"{self.process.poll()}): {self.log.read_text()[-600:]} "
                           f"{self.words.read_text()[-600:]}")

    def end(self, number: int, code: int) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=PATIENCE)
        check(self.process.returncode == code,
              f"exit code {self.process.returncode}: {self.words.read_text()[-400:]}")


@contextlib.contextmanager
def running(operator: Operator, *options: str) -> Iterator[Series]:
    series = Series(operator, *options)
    try:
        yield series
    finally:
        series.process.kill()
        series.process.wait()


def whole(operator: Operator) -> list[str]:
    """The tags of the series, oldest first: those that its record names are there, no other one is,
    each verifies, and what somebody took by hand is still there."""
    wait_until(lambda: not list(operator.bundles.glob("*.partial")),
               "something is left of a snapshot that was cancelled, or of one that was removed")
    status = operator.data("every", "--status")
    there = sorted(path.name for path in operator.bundles.iterdir())
    check(status["snapshots"] == sorted(status["snapshots"]), f"the order: {status}")
    check(there == sorted([*status["snapshots"], "by-hand"]), f"{there}, but the record: {status}")
    check(status["taken"] - status["pruned"] == len(status["snapshots"]), f"the sums: {status}")
    check(status["under_way"] not in there and status["left_behind"] not in there and
          status["being_removed"] is None, f"{status}")
    check(not (operator.state / "merge.json").exists(), "a merge waits to be finished")
    for tag in there:
        operator.run("verify", tag)
    return status["snapshots"]


def layers(operator: Operator) -> None:
    """KEEP snapshots and one by hand need at most that many layers and the one that is written
    to; one more snapshot may have been taken since."""
    for row in operator.data("ps")["members"]:
        check(row["state"] == "running", f"{row}")
        check(max(row["layers"].values()) <= KEEP + 3, f"too many layers: {row}")


def scenario(report: Report) -> None:
    with Workplace() as place:
        operator = Operator(place, "every-test")

        def up() -> None:
            operator.run("up")
            operator.ready()
            operator.run("snapshot", "by-hand")

        def regular() -> None:
            with running(operator) as series:
                series.reach("taken", 2)
                check("runs already" in operator.run("every", PERIOD, code=1), "two at once")
                status = operator.data("every", "--status")
                check(status["running"] and status["pid"] == series.process.pid, f"{status}")
                for name in "ab":
                    operator.moves(name)
                series.reach("taken", 5)
                series.reach("pruned", 3)
                layers(operator)
                slots = [event["due"] for event in series.events("taken")]
                check(len(set(slots)) == len(slots), f"a slot twice: {slots}")
                series.end(signal.SIGTERM, 130)
                print(f"# taken {len(slots)}, missed {series.events('missed')}")
            check(KEEP <= len(whole(operator)) <= KEEP + 1, "not as many as are to be kept")

        def control() -> None:
            """The check of the whole sees a bundle that is not in the record."""
            extra = operator.bundles / "every-20000101T000000Z"
            extra.mkdir()
            try:
                with contextlib.suppress(Failed):
                    whole(operator)
                    raise RuntimeError("it is not seen")
            finally:
                extra.rmdir()

        def killed_in_a_snapshot() -> None:
            with running(operator, "--bandwidth", "64K") as series:
                def begun() -> str | None:
                    """Its tag. A removal has a folder TAG.partial too."""
                    tag = operator.data("every", "--status")["under_way"]
                    return tag if (operator.bundles / f"{tag}.partial/a/state").exists() else None

                wait_until(begun, lambda: f"no snapshot begins: {series.words.read_text()}")
                tag = begun()
                series.end(signal.SIGKILL, -signal.SIGKILL)
            with running(operator) as series:
                wait_until(lambda: series.events("waiting"), "it does not wait for the snapshot")
                operator.lift()
                series.reach("taken", 2)
                check(series.events("taken")[0]["tag"] == tag, f"{series.events('taken')}")
                series.end(signal.SIGTERM, 130)
            settled()

        def killed_in_a_removal() -> None:
            """At two places: when its layers are merged, and when the bundle goes."""
            places = [(operator.state / "merge.json").exists]
            if not left_to_all("a kill when a bundle goes"):
                places.append(lambda: list(operator.bundles.glob("every-*.partial/manifest.json"))
                              or '"removing"' in record.read_text())
            for traces in places:
                record = operator.state / "every.json"
                with running(operator) as series:
                    wait_until(traces, lambda: f"nothing is removed: {series.log.read_text()}",
                               interval=0.0005)
                    series.end(signal.SIGKILL, -signal.SIGKILL)
                settled()

        def settled() -> None:
            """The next run mends what was left, and goes on."""
            with running(operator) as series:
                series.reach("taken", 1)
                series.reach("pruned", 1)
                wait_until(lambda: len(operator.data("every", "--status")["snapshots"]) <= KEEP + 1,
                           lambda: f"old ones stay: {series.log.read_text()[-800:]} "
                                   f"{series.words.read_text()[-400:]}")
                for name in "ab":
                    operator.moves(name)
                series.end(signal.SIGTERM, 130)
            check(KEEP <= len(whole(operator)) <= KEEP + 1, "not as many as are to be kept")
            layers(operator)

        def restore() -> None:
            operator.run("restore", whole(operator)[-1], "--replace")
            for name in "ab":
                operator.moves(name)

        operator.steps(report, "every", (
            ("up", up), ("regular", regular), ("control", control),
            ("killed-in-a-snapshot", killed_in_a_snapshot),
            ("killed-in-a-removal", killed_in_a_removal), ("restore-the-newest", restore)))


started = time.monotonic()
main = Report()
scenario(main)
print(f"# {time.monotonic() - started:.0f} s")
main.exit()
