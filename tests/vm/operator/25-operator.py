#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/hotsnap as an operator uses it: a cluster from a file, its snapshots, the discovery of
damage, the merge of layers, restore; with --json, and with the user guide's exit codes."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.operated import ENVIRONMENT, Operator
from support.outcome import Report, check, wait_until
from support.paths import PATIENCE
from support.workplace import Workplace


def members(value) -> list[dict]:
    return value["members"] if isinstance(value, dict) else value


def scenario(report: Report) -> None:
    with Workplace() as place:
        operator = Operator(place, "operator-test")

        def up() -> None:
            operator.run("up")
            operator.ready()
            check(len(members(operator.data("ps"))) == 2, "ps does not list both members")

        def snapshots() -> None:
            for tag, initiator in (("one", "a"), ("two", "b"), ("three", "a")):
                operator.run("snapshot", tag, "--initiator", initiator)
                operator.moves("a")
            text = operator.run("ls")
            check(all(tag in text for tag in ("one", "two", "three")), text)
            operator.data("ls")
            check("exists" in operator.run("snapshot", "one", code=1), "an existing tag")

        def show() -> None:
            picture = place.path / "picture.svg"
            operator.run("show", "two", "--svg", str(picture))
            check("<svg" in picture.read_text(), "no picture")
            check(operator.data("show", "two")["tag"] == "two", "show --json is not the manifest")

        def verify() -> None:
            operator.run("verify", "two")
            state = operator.bundles / "two" / "a" / "state"
            at = 8 << 20
            with open(state, "r+b") as file:
                file.seek(at)
                before = file.read(1)
                file.seek(at)
                file.write(bytes([before[0] ^ 1]))
            for command in (["verify", "two"], ["restore", "two", "--replace", "--memory", "full"]):
                text = operator.run(*command, code=1)
                check("a/state" in text and re.search(rf"{at}|{at:#x}", text),
                      f"file and offset are not named: {text}")
            operator.moves("a")  # a damaged bundle is no reason to end the cluster
            with open(state, "r+b") as file:
                file.seek(at)
                file.write(before)
            operator.run("verify", "two")

        def begin(tag: str) -> subprocess.Popen[str]:
            """A snapshot that stays under way until it is ended or its limit is lifted."""
            command = subprocess.Popen(operator.command("snapshot", tag, "--bandwidth", "64K"),
                                       env=ENVIRONMENT, text=True, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_until(lambda: (operator.bundles / f"{tag}.partial" / "a" / "state").exists(),
                           lambda: f"snapshot {tag} does not begin (exit code {command.poll()})")
            return command

        def interrupted() -> None:
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130)):
                command = begin("never")
                command.send_signal(number)
                _, text = command.communicate(timeout=PATIENCE)
                check(command.returncode == code, f"exit code {command.returncode}: {text}")
                check(not list(operator.bundles.glob("never*")), "something is left of it")
                for name in "ab":
                    operator.moves(name)
                wait_until(lambda: not list(operator.state.glob("members/*/*never*.qcow2")),
                           "the layers of the snapshot that was cancelled stay")

        def killed() -> None:
            command = begin("orphan")
            command.kill()
            command.communicate(timeout=PATIENCE)
            check("still under way" in operator.run("snapshot", "next", code=1), "its successor")
            operator.lift()
            wait_until(lambda: (operator.bundles / "orphan").exists(), "it does not go on")
            time.sleep(1)  # for its job to be concluded
            operator.run("snapshot", "next")
            for tag in ("orphan", "next"):
                operator.run("verify", tag)
                operator.run("rm", tag)

        def remove() -> None:
            operator.run("rm", "one")
            for name in "ab":
                operator.moves(name)
            check("one" not in operator.run("ls"), "it is still listed")
            layers = list(Path(operator.state, "members", "a").glob("*.qcow2"))
            # Two disks, two snapshots: at most 2 * 2 + 1 layers each.
            check(len(layers) <= 10, f"too many layers: {layers}")
            operator.run("verify", "two")
            operator.run("verify", "three")

        def restore(tag: str, *options: str) -> None:
            operator.run("restore", tag, "--replace", *options)
            for name in "ab":
                operator.moves(name)
                operator.is_the_machine(name)

        def in_use() -> None:
            """A snapshot that memory still comes from is not removed."""
            restore("two", "--memory", "lazy", "--bandwidth", "64K")
            text = operator.run("rm", "two", code=1)
            check("still loads its memory" in text, f"not refused: {text}")
            check(operator.data("show", "two")["tag"] == "two", "it was removed")
            operator.lift()
            for name in "ab":
                operator.moves(name)

        def refused() -> None:
            operator.run("restore", "two", code=1)  # the cluster runs
            operator.run("show", "nothing", code=1)
            operator.run("frobnicate", code=2)

        def elsewhere() -> None:
            """As one file, and without the folder that it came from."""
            file, folder = place.path / "lab.tar.zst", place.path / "elsewhere"
            operator.run("export", "three", "--archive", str(file))
            operator.run("down")
            shutil.rmtree(operator.state)
            operator.file.unlink()
            operator.run("import", str(file), str(folder))
            file.unlink()
            operator.file, operator.state = folder / "cluster.toml", folder
            for name in "ab":
                (folder / "members" / name / "serial.log").touch()
            restore("three")

        def down() -> None:
            operator.run("down")
            namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True,
                                        check=True).stdout
            check("operator-test" not in namespaces, namespaces)

        operator.steps(report, "operator", (
            ("up", up), ("snapshots", snapshots), ("show", show), ("verify", verify),
            ("interrupted", interrupted), ("killed", killed), ("rm", remove),
            ("restore-second-after-third", lambda: restore("two")),
            ("restore-twice", lambda: restore("two")),
            ("restore-in-full", lambda: restore("two", "--memory", "full")),
            ("rm-while-memory-comes", in_use), ("refusals", refused), ("elsewhere", elsewhere),
            ("down", down)))


main = Report()
scenario(main)
main.exit()
