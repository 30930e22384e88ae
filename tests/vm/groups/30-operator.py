#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups as an operator uses them: by scripts/hotsnap, on two guests that write to their disks. A
group's snapshot is restored: its disk is as it was, the guest boots and writes on; the other disk
and the other member go on as they are."""

# tier: all

import json
import subprocess
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.operated import Operator
from support.outcome import Report, check
from support.paths import QEMU_IMG
from support.unharmed import is_whole
from support.workplace import Workplace
from hotsnap.model import cluster
from hotsnap.model.state import State
from hotsnap.qemu.qmp import Qmp


def scenario(report: Report) -> None:
    with Workplace() as place:
        operator = Operator(place, "group-test")

        def qmp(name: str, command: str):
            state = State(cluster.load(str(operator.file)))
            with Qmp.connect(state.paths(name).monitor, 60) as monitor:
                return monitor.execute(command)

        def groups() -> None:
            operator.run("up")
            operator.ready()
            operator.run("group", "add", "tags", "a:hsdisktag")
            operator.run("group", "add", "tags", "b:disk1", "b:disk1")
            operator.run("group", "add", "both", "a")
            check(operator.data("group", "ls")["groups"] == [
                {"name": "both", "disks": ["a"]},
                {"name": "tags", "disks": ["a:hsdisktag", "b:disk1"]}], "group ls")
            check("no disk 'disk7'" in operator.run("group", "add", "tags", "a:disk7", code=2),
                  "a disk that is not there")
            operator.run("group", "rm", "both")
            check("there is no group 'both'" in operator.run("snapshot", "--group", "both", "x",
                                                             code=2), "a group that is not there")
            check("leave out" in operator.run("snapshot", "--group", "tags", "--within", "3s", "x",
                                              code=2), "an option about memory")

        def snapshot() -> None:
            made = operator.data("snapshot", "--group", "tags", "one")
            check(made["content"] == "disks" and made["hold_max_ms"] > 0, f"{made}")
            check(made["disks"] == ["a:disk1-dev", "b:disk1-dev"], f"{made}")
            print(f"# hold {made['hold_max_ms']} ms")
            for name in "ab":
                operator.moves(name)
                info = qmp(name, "query-hotsnap")["snapshot"]
                check(info["pause-us"] == 0, f"{info}")
            operator.run("verify", "one")
            check("no pause" in operator.run("show", "one"), "show")
            operator.run("show", "one", "--svg", str(place.path / "one.svg"))
            listed = {b["tag"]: b for b in operator.data("ls")["bundles"]}
            check(listed["one"]["status"] == "complete" and listed["one"]["error"] is None,
                  f"{listed}")
            operator.run("snapshot", "all", "--bandwidth", "0")  # memory, after disks alone
            operator.run("snapshot", "--group", "tags", "two")

        def barrier() -> None:
            made = operator.data("snapshot", "--group", "tags", "--cut", "barrier",
                                 "--hold-timeout", "2s", "held")
            check(made["cut"] == "barrier" and made["disks"] == ["a:disk1-dev", "b:disk1-dev"],
                  f"{made}")
            check("until all members held theirs" in operator.run("show", "held"), "show")
            operator.run("verify", "held")
            operator.run("rm", "held")
            for name in "ab":
                operator.moves(name)

        def frozen(tag: str, name: str) -> str:
            manifest = json.loads((operator.bundles / tag / "manifest.json").read_text())
            return next(m["disks"][0]["file"] for m in manifest["members"] if m["name"] == name)

        def ship() -> None:
            """While the guests write, and layers below what was shipped are merged."""
            store = place.path / "store"
            store.mkdir()
            check("recovery point: two" in operator.run("ship", "--group", "tags", str(store)),
                  "no recovery point")
            operator.run("snapshot", "--group", "tags", "three")
            operator.run("ship", "--group", "tags", str(store))
            operator.run("snapshot", "--group", "tags", "four")
            operator.run("rm", "three")
            operator.run("ship", "--group", "tags", str(store))
            found = operator.data("ship", "--list", str(store))
            check([one["tag"] for one in found["snapshots"]] == ["one", "two", "three", "four"]
                  and 0 < found["age_s"] < 600, f"{found}")
            print(f"# recovery point {found['age_s']} s, sent "
                  f"{' '.join(str(one['sent']) for one in found['snapshots'])}")
            operator.run("ship", "--verify", str(store))
            files = {(one["tag"], disk["member"]): store / disk["file"]
                     for one in found["snapshots"] for disk in one["disks"]}

            def same(tag: str, other: str, name: str) -> bool:
                return subprocess.run(
                    [str(QEMU_IMG), "compare", "-q", "-U", files[tag, name], frozen(other, name)],
                    check=False).returncode == 0

            for name in "ab":
                for tag in ("one", "two", "four"):
                    check(same(tag, tag, name), f"{tag} of {name} is another one in the store")
                check(not same("two", "four", name), "the guest has written nothing")
            operator.run("rm", "four")

        def restore() -> None:
            operator.run("group", "rm", "tags", "b:disk1")
            operator.run("snapshot", "--group", "tags", "only-a")
            since = qmp("b", "query-status"), State(cluster.load(str(operator.file))).member(
                "b").process
            check("would be started anew" in operator.run("restore", "only-a", code=1), "runs")
            done = operator.data("restore", "--replace", "only-a")
            check(done["members"] == ["a"], f"{done}")
            operator.moves("a")
            operator.moves("b")
            state = State(cluster.load(str(operator.file)))
            check((qmp("b", "query-status"), state.member("b").process) == since,
                  "b was started anew")
            operator.run("verify", "only-a")
            for path in {frozen("only-a", "a"), frozen("one", "b")}:
                is_whole(path, in_use=True)

        def remove() -> None:
            for tag in ("one", "two", "only-a"):
                operator.run("rm", tag)
                operator.run("verify", "all")
                for name in "ab":
                    operator.moves(name)

        def with_memory() -> None:
            """A snapshot with memory from between is not affected by any of that."""
            operator.run("restore", "--replace", "all")
            for name in "ab":
                operator.moves(name)
            operator.run("down")

        operator.steps(report, "group", (
            ("groups", groups), ("snapshot", snapshot), ("barrier", barrier), ("ship", ship),
            ("restore", restore), ("rm", remove), ("snapshot-with-memory", with_memory)))


main = Report()
scenario(main)
main.exit()
