# SPDX-License-Identifier: GPL-2.0-or-later
"""A recovery beside the cluster that it came from: its disks and memory are those of the cut, and
nothing that it does, or that is done to the original, reaches the other one.

Members are real ones of the fork: $HOTSNAP_QEMU, else the checkout's build.
"""

import contextlib
import os
import signal
import socket
import threading
import unittest
from unittest import mock

import hotsnap.model.state
import test_operator_merge
from hotsnap.commands import beside, group, lifecycle, listing, snapshot
from hotsnap.disks import layers, merge, survey
from hotsnap.errors import HotsnapError, UsageError
from hotsnap.formats import qcow2
from hotsnap.host import process
from hotsnap.model import bundle, cluster, groups, recoveries
from hotsnap.model.state import State
from hotsnap.qemu import binaries, launch
from hotsnap.qemu.fleet import Fleet
from support.tier import steps
from test_operator_merge import BLOCK
from test_operator_restore import ForkOfOne, in_child, killer


ARGS = 'args = ["-gdb", "unix:GDB,server=on,wait=off"]'
NIC = '\n  [[member.nic]]\n  network = "lan"\n[[network]]\nname = "lan"\n'


class Beside(ForkOfOne):
    """A cluster that runs, with a snapshot `t1` of its disk, and work since."""

    more = other = ""  # disks of the member, and other members

    def setUp(self):
        described = test_operator_merge.CLUSTER.replace('args = ["-S"]', ARGS)
        with mock.patch.object(test_operator_merge, "CLUSTER", described + self.more + NIC + self.other):
            super().setUp()
        path = self.path("cluster.toml")
        text = self.read_file(path).decode().replace("GDB", self.path("gdb"))
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        self.state = State(cluster.load(path))
        self.fleet = Fleet(self.state)

    def begin(self):
        self.up()
        groups.add(self.state, "g", ["a:disk0"])
        self.write(0, "A")
        self.snapshot(group="g")
        self.taken["t1"] = bytes(self.content)
        self.write(0, "B")
        self.write(1, "B")

    def end(self):
        for name in recoveries.load(self.state.directory):
            beside._discard(recoveries.folder(  # pylint: disable=protected-access
                self.state.directory, name))
        super().end()

    def recover(self, name="r", tag="t1", **options):
        return beside.restore(self.state, self.fleet, os.path.join(self.state.bundles, tag), name,
                              quiet=True, **options)

    def remove(self, name="r"):
        with self.state.locked():
            return beside.remove(self.state, self.fleet, name, quiet=True)

    def refused_rm(self, tag):
        with self.state.locked():
            listing.rm(self.state, self.fleet, tag, quiet=True)

    def own(self, name="r"):
        """State and fleet of a recovery, as any command reads them."""
        state = State(cluster.load(recoveries.find(self.state.directory, name)))
        return state, Fleet(state)

    def down_beside(self, name="r"):
        state, fleet = self.own(name)
        with state.locked():
            lifecycle.down(state, fleet, force=False)

    def up_beside(self, name="r"):
        state, fleet = self.own(name)
        with state.locked():
            lifecycle.up(state, fleet)

    def write_beside(self, block, letter, name="r"):
        _, fleet = self.own(name)
        with fleet.monitor("a") as qmp:
            device = next(d["qdev"] for d in qmp.execute("query-block")
                          if "disk0-dev" in d.get("qdev", ""))
            for command in (f"write -P {ord(letter)} {block * BLOCK} {BLOCK}", "flush"):
                self.assertEqual(qmp.hmp(f"qemu-io -d {device} \"{command}\""), "")

    def active_beside(self, name="r"):
        _, fleet = self.own(name)
        with fleet.monitor("a") as qmp:
            return fleet.block_info(qmp)["disk0"]["image"]["filename"]

    def beside(self, name="r"):
        return recoveries.folder(self.state.directory, name)

    def files(self):
        """Everything in the cluster's folder but sockets and logs of members."""
        return sorted(os.path.relpath(os.path.join(above, name), self.state.directory)
                      for above, _, names in os.walk(self.state.directory) for name in names
                      if "/run" not in above and not name.endswith(".log"))

    def view_is(self, path, *letters):
        """The first blocks of a disk, a letter each."""
        content = self.view(path)
        self.assertEqual([content[i * BLOCK:(i + 1) * BLOCK] for i in range(len(letters))],
                         [letter.encode() * BLOCK for letter in letters])


class Life(Beside):
    def test_whole_way(self):
        self.begin()
        before, ran = self.files(), self.state.members["a"].process
        with self.writing() as count:
            made = self.recover()
            self.assertGreater(count(), 0)
        self.assertEqual((made.members, made.memory), (["a"], None))
        # Both run, each with its own; the recovery began at the cut, bit for bit.
        self.assertTrue(process.alive(ran))
        self.assertEqual(self.view(self.active_beside()), self.taken["t1"])
        self.write(2, "C")
        self.write_beside(0, "X")
        self.write_beside(3, "X")
        self.view_is(self.active(), "B", "B", "C", "\0")
        expected = bytearray(self.taken["t1"])
        expected[:BLOCK] = expected[3 * BLOCK:4 * BLOCK] = b"X" * BLOCK
        self.assertEqual(self.view(self.active_beside()), bytes(expected))
        self.check(2)  # the original's disk, and the snapshot's
        # Snapshots of the original go on.
        with self.state.locked():
            snapshot.snapshot(self.state, self.fleet, "t2", quiet=True, group="g")
        self.taken["t2"] = bytes(self.content)
        self.check(3)
        self.rm("t2")
        state, fleet = self.own()
        self.networks(state, fleet)
        # Down and up, as any cluster; the original does not notice.
        self.down_beside()
        self.assertFalse(fleet.lab.exists())
        self.assertTrue(process.alive(ran) and self.fleet.lab.exists())
        self.up_beside()
        self.assertEqual(self.view(self.active_beside()), bytes(expected))
        with self.assertRaisesRegex(HotsnapError, "'r' runs: 'hotsnap down --as r' ends it first"):
            self.remove()
        self.down_beside()
        self.remove()
        self.assertEqual(self.files(), before)
        self.assertEqual(process.find("-pidfile", state.paths("a").pidfile), [])
        self.check(2)

    @contextlib.contextmanager
    def writing(self):
        """The original's guest writes meanwhile; gives a function that counts its writes."""
        stop, count = threading.Event(), 0

        def work():
            nonlocal count
            while not stop.is_set():
                self.write(8 + count % 16, "W")
                count += 1

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield lambda: count
        finally:
            stop.set()
            thread.join()

    def networks(self, state, fleet):
        """They never meet, and the MAC address is as it was."""
        self.assertEqual(state.cluster.member("a").nics, self.state.cluster.member("a").nics)
        self.assertIn(self.state.cluster.member("a").nics[0].mac,
                      " ".join(state.members["a"].argv))
        self.assertTrue(fleet.lab.exists() and self.fleet.lab.exists())
        own, original = (os.readlink(f"/proc/{each.members['a'].process.pid}/ns/net")
                         for each in (state, self.state))
        self.assertEqual(len({own, original, os.readlink("/proc/self/ns/net")}), 3)

    def test_refused(self):
        self.begin()
        for name in ("", ".", "../x", "a b", "a/b", "x" * 33):
            with self.assertRaisesRegex(UsageError, "cannot be the name of a recovery"):
                self.recover(name)
        before = self.files()
        with self.assertRaisesRegex(HotsnapError, "no bundle at .*t9"):
            self.recover(tag="t9")
        layer = self.bundle("t1").members[0].disks[0].file
        content = self.read_file(layer)
        os.truncate(layer, 1000)
        with self.assertRaisesRegex(HotsnapError, "'t1' is damaged.*nothing was started"):
            self.recover()
        self.assertEqual(self.files(), before)
        with open(layer, "r+b") as stream:
            stream.write(content)
        with mock.patch.object(Fleet, "start", side_effect=HotsnapError("no QEMU")), \
                self.assertRaisesRegex(HotsnapError, "the snapshot is whole: no QEMU"):
            self.recover()
        self.assertEqual(self.files(), before)
        open(self.state.journal, "w", encoding="ascii").close()
        with mock.patch.object(merge, "recover"), \
                self.assertRaisesRegex(survey.Busy, "a merge of disk layers waits"):
            self.recover()
        os.unlink(self.state.journal)
        with mock.patch.object(hotsnap.model.state, "MAX_SOCKET_PATH", 20), \
                self.assertRaisesRegex(HotsnapError, "too long for a socket.*shorter path"):
            self.recover()
        self.assertEqual(self.files(), before)
        with self.assertRaisesRegex(UsageError, "there is no recovery 'r': there is none; 'hots"):
            self.own()
        self.recover()
        with self.assertRaisesRegex(HotsnapError, "a recovery 'r' exists: choose another name"):
            self.recover()
        with self.assertRaisesRegex(UsageError, "there is no recovery 'q': there is r"):
            self.own("q")
        with self.assertRaisesRegex(HotsnapError, "no recovery 'q'"):
            self.remove("q")
        self.damaged_record()

    def damaged_record(self):
        """It keeps all layers where they are, and the recovery can be removed."""
        state, _ = self.own()
        with open(recoveries.record_file(self.beside()), "w", encoding="utf-8") as stream:
            stream.write("{")
        for call in (lambda: self.refused_rm("t1"), self.own):
            with self.assertRaisesRegex(HotsnapError, "'hotsnap recovery rm r' removes the rec"):
                call()
        self.remove()
        self.assertEqual(process.find("-pidfile", state.paths("a").pidfile), [])
        self.recover()
        state, fleet = self.own()
        with self.assertRaisesRegex(HotsnapError, "this is a recovery itself"):
            beside.restore(state, fleet, self.bundle("t1").path, "s")
        self.check(2)

    def test_memory(self):
        self.up()
        self.write(0, "A")
        self.poke("original")
        self.snapshot()
        self.taken["t1"] = bytes(self.content)
        self.write(0, "B")
        self.poke("later on")
        made = self.recover()
        self.assertIn(made.memory, ("lazy", "full"))
        self.assertIn(f"{self.path('gdb')} of member a is {self.beside()}/run/a+gdb here",
                      made.remarks)
        state, fleet = self.own()
        self.assertEqual(self.peek(fleet), "original")
        self.assertEqual(self.peek(self.fleet), "later on")
        self.assertEqual(self.view(self.active_beside()), self.taken["t1"])
        self.poke("beside", fleet)
        self.assertEqual((self.peek(fleet), self.peek(self.fleet)), ("beside", "later on"))
        for each in (fleet, self.fleet):
            with each.monitor("a") as qmp:
                self.assertEqual(qmp.execute("query-status")["status"], "running")
        with self.assertRaisesRegex(HotsnapError, "'r' stands on the disks of 't1'"):
            self.refused_rm("t1")
        self.snapshots_of_its_own(state, fleet)
        self.check(2)
        self.another_machine()

    def another_machine(self):
        """The message names the file that the user can change, and nothing is left."""
        path = self.path("cluster.toml")
        text = self.read_file(path).decode()
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text.replace('"16M"', '"32M"'))
        self.state = State(cluster.load(path))
        self.fleet = Fleet(self.state)
        with self.assertRaisesRegex(UsageError, f"size=16M.*size=32M.*put {path} back"):
            self.recover("s")
        self.assertEqual(list(recoveries.load(self.state.directory)), ["r"])

    def snapshots_of_its_own(self, state, fleet):
        """As of any cluster."""
        self.write_beside(5, "Y")
        with state.locked():
            snapshot.snapshot(state, fleet, "own", quiet=True)
        self.write_beside(5, "Z")
        self.poke("Z", fleet)
        own = bundle.read(os.path.join(state.bundles, "own"))
        with state.locked():
            snapshot.restore(state, fleet, own, replace=True, quiet=True)
            self.assertEqual(self.peek(fleet), "beside")
            listing.rm(state, fleet, "own", quiet=True)
        self.assertEqual(self.view(self.active_beside())[5 * BLOCK:6 * BLOCK], b"Y" * BLOCK)

    # The guest's memory, through QEMU's gdb server

    ADDRESS = 0x500000

    def poke(self, text, fleet=None):
        fleet = fleet or self.fleet
        path = next(each for each in fleet.state.members["a"].argv if each.startswith("unix:"))
        data = f"M{self.ADDRESS:x},8:{text.ljust(8).encode().hex()}"
        with socket.socket(socket.AF_UNIX) as gdb:
            gdb.connect(path.removeprefix("unix:").split(",")[0])
            for packet in (data, "D"):  # write, detach: the guest goes on
                gdb.sendall(f"${packet}#{sum(packet.encode()) % 256:02x}".encode())
                said = b""
                while not said.endswith(b"$OK#9a"):
                    more = gdb.recv(100)
                    self.assertTrue(more, said)
                    said += more
                gdb.sendall(b"+")

    def peek(self, fleet):
        with fleet.monitor("a") as qmp:
            said = qmp.hmp(f"xp /1gx {self.ADDRESS}")
        return int(said.split()[-1], 16).to_bytes(8, "little").decode().rstrip()


class PartOfTheDisks(Beside):
    more = '\n  [[member.disk]]\n  size = "8M"\n  serial = "data"\n'
    other = '[[member]]\nname = "b"\nargs = ["-S"]\n'

    def test_others_begin_anew_and_are_told(self):
        self.up()
        groups.add(self.state, "g", ["a:data"])
        self.write(0, "A")
        self.snapshot(group="g")
        before = self.files()
        made = self.recover()
        self.assertEqual(made.members, ["a"])
        self.assertIn("disk0 of member a is not in the snapshot: it begins as when the member was "
                      "new", made.remarks)
        self.assertIn("b is not part of it: the snapshot has no disk of it", made.remarks)
        golden = self.read_file(self.path("golden.raw"))
        self.assertEqual(self.view(self.active_beside()), golden)
        self.write_beside(0, "X")
        state, fleet = self.own()
        with fleet.monitor("a") as qmp:
            self.assertEqual(sorted(fleet.block_info(qmp)), ["disk0", "disk1"])
        self.assertEqual(self.view(self.active())[:BLOCK], b"A" * BLOCK)
        self.assertEqual(self.fleet.running_names(), ["a", "b"])
        # The golden image counts for the recovery, too.
        self.down_beside()
        os.utime(self.path("golden.raw"), ns=(1, 1))
        with self.assertRaisesRegex(HotsnapError, "golden.raw was changed since"):
            self.up_beside()
        os.unlink(self.path("golden.raw"))
        self.remove()
        self.assertEqual(self.files(), before)
        self.assertFalse(os.path.exists(state.directory))


class Layers(Beside):
    """What the original does to its layers while a recovery stands on some of them."""

    def test_removal_and_merges_leave_them_alone(self):
        self.begin()                      # t1
        self.three_more()                 # t2, t3 over it
        self.recover("r", "t2")
        content = self.view(self.active_beside())
        chain = qcow2.chain(self.active_beside())
        with self.assertRaisesRegex(HotsnapError, "recovery 'r' stands on the disks of 't2'.*"
                                                  "'hotsnap recovery rm r' removes it first"):
            self.refused_rm("t2")
        for running in (True, False):
            if not running:
                self.down_beside()
            with self.subTest(running=running):
                # t1's layer lies under t2's and serves nothing else: it would be merged.
                if running:
                    self.assertEqual(self.rm("t1")["merged"], [])
                else:
                    self.assertEqual(len(self.rm("t3")["merged"]), 1)
                self.write(7, "E")
                self.check(4 if running else 3)
                self.assertTrue(all(map(os.path.exists, chain)))
        self.up_beside()
        self.assertEqual(self.view(self.active_beside()), content)
        self.assertEqual(qcow2.chain(self.active_beside())[1:], chain[1:])
        # Also when nothing of the original is left over them.
        self.down()
        self.up_fresh()
        self.assertEqual(self.view(self.active_beside()), content)
        self.check(1)
        self.down_beside()
        self.assertEqual(len(self.remove()["merged"]), 1)  # t1's layer and t2's
        self.check(1)
        self.rm("t2")
        self.assertEqual(len(layers.scan(merge.folders(self.state))), 1)

    def three_more(self):
        for tag, letter in (("t2", "C"), ("t3", "D")):
            with self.state.locked():
                snapshot.snapshot(self.state, self.fleet, tag, quiet=True, group="g")
            self.taken[tag] = bytes(self.content)
            self.write(0, letter)

    def test_control_without_the_record_the_layers_are_merged(self):
        self.begin()
        self.three_more()
        self.recover("r", "t2")
        chain = qcow2.chain(self.active_beside())
        self.down_beside()
        os.rename(recoveries.record_file(self.beside()), self.path("record"))
        self.assertEqual(len(self.rm("t1")["merged"]), 1)
        self.assertFalse(all(map(os.path.exists, chain)))
        os.rename(self.path("record"), recoveries.record_file(self.beside()))
        with self.assertRaisesRegex(HotsnapError, "'r' stands on the disk layer.*recovery rm r"):
            with self.state.locked():
                merge.tidy(self.state, self.fleet)
        self.remove()
        with self.state.locked():
            merge.tidy(self.state, self.fleet)
        self.check(3)

    def test_restore_of_the_original(self):
        self.begin()
        self.recover()
        with self.state.locked():
            group.restore(self.state, self.fleet, self.bundle("t1"), replace=True, quiet=True)
        self.content[:] = self.taken["t1"]
        self.write(4, "F")
        self.check(2)
        self.assertEqual(self.view(self.active_beside()), self.taken["t1"])

    def test_moved_folder_is_refused(self):
        self.begin()
        self.recover()
        self.down_beside()
        self.down()
        os.rename(self.path(".hotsnap"), self.path("other"))
        with open(self.path("cluster.toml"), "r+", encoding="utf-8") as stream:
            text = stream.read().replace('name = "merge"', 'name = "merge"\n'
                                         'directory = "other/merge"')
            stream.seek(0)
            stream.write(text)
        self.state = State(cluster.load(self.path("cluster.toml")))
        self.fleet = Fleet(self.state)
        with self.assertRaisesRegex(HotsnapError, "the disks of recovery 'r' name layers there: "
                                                  "run 'hotsnap recovery rm r'"):
            self.up()
        self.assertIn("layers beside that", self.error(self.up_beside))
        self.remove()
        self.up()
        self.check(2)

    def error(self, call):
        with self.assertRaises(HotsnapError) as caught:
            call()
        return str(caught.exception)


class Killed(Beside):
    def killed(self, step, work):
        """Whether `work` came as far as its step of that number."""
        def die():
            self.die_at(step)
            work()

        status = in_child(die)
        self.state.load()
        self.assertIn(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, (0, signal.SIGKILL))
        return os.WIFSIGNALED(status)

    @staticmethod
    def die_at(step):
        dying = killer(step)
        for owner, name in ((State, "save"), (recoveries, "write_json"), (binaries, "run_img"),
                            (launch, "start"), (os, "unlink"), (beside, "write_bytes"),
                            (beside, "sync_folder"), (Fleet, "remove_network"),
                            (beside.shutil, "rmtree")):
            setattr(owner, name, dying(getattr(owner, name)))
        launch.start = dying(launch.start, after=True)  # a member that nobody has noted

    def test_made(self):
        self.begin()
        before, ran = self.files(), self.state.members["a"].process
        for step in steps(1, 60, 9):
            with self.subTest(step=step):
                died = self.killed(step, self.recover)
                if died and recoveries.load(self.state.directory):
                    with self.assertRaisesRegex(HotsnapError, "was not completed: 'hotsnap rec"):
                        self.own()
                    self.write(9, "K")
                    self.remove()
                elif not died:
                    self.assertEqual(self.view(self.active_beside()), self.taken["t1"])
                    self.down_beside()
                    self.remove()
                self.assertEqual(self.files(), before)
                self.assertEqual(process.find("-pidfile", os.path.join(
                    self.beside(), "run", "a.pid")), [])
                self.assertTrue(process.alive(ran))
                self.check(2)
                if not died:
                    self.assertGreater(step, 8)
                    return
        self.fail("it has more steps than were tried")

    def test_removed(self):
        self.begin()
        before = self.files()
        for step in steps(2, 60, 5):
            with self.subTest(step=step):
                with mock.patch.object(Fleet, "start"):
                    self.recover()
                died = self.killed(step, self.remove)
                if recoveries.load(self.state.directory):
                    self.remove()
                with self.state.locked():
                    merge.tidy(self.state, self.fleet)
                self.assertEqual(self.files(), before)
                self.check(2)
                if not died:
                    self.assertGreater(step, 4)
                    return
        self.fail("it has more steps than were tried")


if __name__ == "__main__":
    unittest.main()
