# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recovery beside its cluster needs and no QEMU does: its cluster file, the arguments that
two machines cannot share, and its record. Its commands are in test_operator_cli.py."""

import dataclasses
import os
import tempfile
import unittest

from every_fixtures import SeriesOfFolders
from hotsnap.errors import HotsnapError
from hotsnap.model import cluster, cluster_text, recoveries, sharing
from hotsnap.model.series import Keep
from hotsnap.qemu import machine
from hotsnap.qemu.lab import namespace

CLUSTER = """
[cluster]
name = "lab"
directory = "elsewhere"
accel = "tcg"
machine = "q35,hpet=off"
[[network]]
name = "lan"
[[network]]
name = "wan"
[[member]]
name = "db"
memory = "64M"
cpus = 2
cpu = "max"
kernel = "kernel"
append = 'quote " \\ é'
firmware = "uefi"
args = ["-device", 'virtio-rng-pci,id="x"']
labels = { tier = "db", "a.b" = "1" }
  [[member.disk]]
  image = "golden.raw"
  format = "raw"
  serial = "a"
  labels = { tier = "log" }
  [[member.disk]]
  size = "16M"
  interface = "virtio-scsi"
  iothread = true
  [[member.disk]]
  cdrom = "golden.raw"
  interface = "ahci"
  [[member.disk]]
  cdrom = ""
  [[member.disk]]
  image = "golden.raw"
  read_only = true
  [[member.nic]]
  network = "wan"
  queues = 2
  [[member.nic]]
  network = "lan"
  model = "e1000"
  mac = "52:54:00:12:00:01"
[[member]]
name = "web"
"""


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path


class ClusterFile(Folder):
    def test_the_text_describes_the_same_machines(self):
        self.write("golden.raw", "golden")
        self.write("kernel", "")
        original = cluster.load(self.write("cluster.toml", CLUSTER))
        wanted = dataclasses.replace(original, name="other",
                                     directory=os.path.join(self.folder, "r"),
                                     file=os.path.join(self.folder, "r", "cluster.toml"))
        path = self.write("r/cluster.toml", cluster_text.text(wanted, "remark"))
        found = cluster.load(path)
        self.assertEqual(found, wanted)
        self.assertNotEqual(namespace(found), namespace(original))
        # A description that says something else is of other machines.
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        for before, after in (("queues = 2", "queues = 1"), ("cpus = 2", "cpus = 1"),
                              ('cdrom = ""', 'cdrom = "../golden.raw"'), ("hpet=off", "hpet=on"),
                              ("read_only = true", "read_only = false"), ("\u00e9", "e"),
                              ('{ "tier" = "log" }', '{ "tier" = "x" }')):
            with self.subTest(before):
                self.assertIn(before, text)
                other = self.write("r/other.toml", text.replace(before, after))
                self.assertNotEqual(cluster.load(other).members, wanted.members)


class Sharing(unittest.TestCase):
    """What two machines cannot have both."""

    def separated(self, *args):
        return sharing.separated("a", args, "/r/run")

    def test_files_get_other_names(self):
        for before, after in (
                ("-chardev socket,path=/h/qga.sock,server=on,wait=off,id=q",
                 "-chardev socket,path=/r/run/a+qga.sock,server=on,wait=off,id=q"),
                ("-chardev socket,id=q,path=/h/a,,b,server",
                 "-chardev socket,id=q,path=/r/run/a+a,,b,server"),
                ("-chardev file,id=l,path=/h/log,append=on",
                 "-chardev file,id=l,path=/r/run/a+log,append=on"),
                ("-chardev null,id=n,logfile=/h/l", "-chardev null,id=n,logfile=/r/run/a+l"),
                ("-serial unix:/h/s,server=on,wait=off",
                 "-serial unix:/r/run/a+s,server=on,wait=off"),
                ("-serial mon:unix:/h/s,server", "-serial mon:unix:/r/run/a+s,server"),
                ("-monitor file:/h/m", "-monitor file:/r/run/a+m"),
                ("-vnc unix:/h/v", "-vnc unix:/r/run/a+v"), ("-D /h/log", "-D /r/run/a+log")):
            with self.subTest(before):
                found, moved = self.separated(*before.split())
                self.assertEqual(" ".join(found), after)
                self.assertEqual(len(moved), 1)
                self.assertTrue(next(iter(moved)).startswith("/h/"))
                # The guest does not see it, so that its memory can be loaded.
                self.assertIsNone(machine.hardware_difference(["qemu", *before.split()],
                                                              ["qemu", *after.split()]))

    def test_two_files_of_one_name(self):
        _, moved = self.separated("-serial", "file:/x/log", "-serial", "file:/y/log",
                                  "-monitor", "file:/x/log")
        self.assertEqual(moved, {"/x/log": "/r/run/a+log", "/y/log": "/r/run/a+2-log"})

    def test_what_meets_nowhere_stays(self):
        for args in ("-chardev socket,host=127.0.0.1,port=5,server=on,id=q", "-S",
                     "-chardev socket,path=name,abstract=on,server=on,id=q", "-serial stdio",
                     "-netdev user,id=m,hostfwd=tcp:127.0.0.1:2201-:22", "-vnc :1",
                     "-netdev tap,id=m,ifname=x,script=no", "-device e1000,netdev=m",
                     "-fsdev local,id=f,path=/h,readonly=on", "-drive file=/h/x,readonly=on",
                     "-object memory-backend-file,id=m,mem-path=/h/f,share=off,size=1M",
                     '-object {"qom-type":"memory-backend-ram","id":"m","share":true}',
                     "-trace enable=x", "-append unix:/h/x -chardev"):
            with self.subTest(args):
                self.assertEqual(self.separated(*args.split()), (tuple(args.split()), {}))

    def test_refused(self):
        for args, what in (("-chardev socket,path=/h/swtpm,id=t", "connection to one other"),
                           ("-serial unix:/h/s", "connection to one other"),
                           ("-serial /dev/ttyS0", "device or a pipe"),
                           ("-chardev pipe,path=/h/p,id=p", "device or a pipe"),
                           ("-spice unix=on,addr=/h/s", "socket in a file"),
                           ("-netdev stream,id=n,addr.type=unix,addr.path=/h/n", "connection"),
                           ('-netdev {"type":"stream","id":"n","addr":{"path":"/h/n"}}', "conn"),
                           ("-virtfs local,path=/h,mount_tag=t", "folder that the guest writes"),
                           ("-object memory-backend-file,id=m,mem-path=/h/f,share=on", "memory"),
                           ("-object filter-dump,id=d,netdev=n,file=/h/d", "file that QEMU writes"),
                           ("-trace enable=x,file=/h/t", "file or device"),
                           ("-tpmdev passthrough,id=t,path=/dev/tpm0", "file or device"),
                           ("-netdev vde,id=v,sock=/h/v", "connection to one other"),
                           ("-debugcon file:/h/d", "file of the host")):
            with self.subTest(args), self.assertRaises(HotsnapError) as caught:
                self.separated(*args.split())
            self.assertIn(f"member a: {args} in 'args' is", str(caught.exception).replace(
                "listens on", "is"))
            self.assertIn(what, str(caught.exception))


class Records(Folder):
    def record(self, name, **changes):
        path = recoveries.folder(self.folder, name)
        os.makedirs(path, exist_ok=True)
        recoveries.write(path, recoveries.Recovery(1, "t1", ["a"], ["/x"], **changes))

    def test_standing_on(self):
        self.assertEqual(recoveries.load(self.folder), {})
        self.record("b", complete=True)
        self.record("a")
        os.makedirs(recoveries.folder(self.folder, "rest"))
        self.write("recoveries/file", "")
        self.assertEqual(recoveries.standing_on(self.folder), {"t1": ["a", "b"]})
        self.assertIsNone(recoveries.load(self.folder)["rest"])
        self.assertEqual(recoveries.find(self.folder, "b"),
                         os.path.join(self.folder, "recoveries", "b", "cluster.toml"))
        for name in ("a", "rest"):
            with self.assertRaisesRegex(HotsnapError, "was not completed: 'hotsnap recovery rm "):
                recoveries.find(self.folder, name)
        for name in ("..", "file", "none"):
            with self.assertRaisesRegex(HotsnapError, "there is no recovery '.*': there is a, b"):
                recoveries.find(self.folder, name)

    def test_damaged(self):
        for text, pattern in (("{", "cannot read"), ("[]", "must be an object"),
                              ('{"version": 1}', "is missing"),
                              ('{"version": 2, "tag": "t", "members": [], "layers": []}',
                               "has version 2")):
            path = self.write("recoveries/a/recovery.json", text)
            with self.assertRaisesRegex(HotsnapError, pattern) as caught:
                recoveries.load(self.folder)
            self.assertIn(path, str(caught.exception))
            if "version\": 2" not in text:
                self.assertIn("'hotsnap recovery rm a' removes the recovery", str(caught.exception))


class Series(SeriesOfFolders):
    def test_a_snapshot_that_a_recovery_stands_on_is_kept(self):
        self.run_it(5)
        tag, = self.tags()
        path = recoveries.folder(os.path.join(self.folder, "state"), "r")
        os.makedirs(path)
        recoveries.write(path, recoveries.Recovery(1, tag, ["a"], []))
        events, said = self.run_it(200, keep=Keep(newest=1))
        self.assertEqual(len(self.tags()), 2)
        self.assertIn(tag, self.tags())
        self.assertNotIn("prune-failed", [event["event"] for event in events])
        self.assertEqual(said, "")
        with open(recoveries.record_file(path), "w", encoding="utf-8") as stream:
            stream.write("{")
        events, _ = self.run_it(70, keep=Keep(newest=1))
        self.assertIn("cannot read", next(event["reason"] for event in events
                                          if event["event"] == "prune-failed"))
        self.assertIn(tag, self.tags())
        os.unlink(recoveries.record_file(path))
        self.run_it(70, keep=Keep(newest=1))
        self.assertEqual(len(self.tags()), 1)


if __name__ == "__main__":
    unittest.main()
