# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line, what of it the guest can see, and processes that are known by name."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import unittest

from hotsnap.host import process
from hotsnap.model import cluster
from hotsnap.model.state import Paths
from hotsnap.qemu import accel, lab, machine

PATHS = Paths("/r/a.qmp", "/r/a.mon", "/r/a.hs", "/r/a.ga", "/m/serial.log", "/r/a.pid")


def disk(number, interface="virtio-blk", **changes):
    values = {"id": f"disk{number}", "image": "/g.raw", "format": "raw", "size": None,
              "interface": interface, "serial": None, "iothread": False, "read_only": False}
    return cluster.Disk(**{**values, **changes})


def member(**changes):
    values = {"name": "a", "memory": 256 << 20, "cpus": 2, "machine": "q35", "cpu": None,
              "kernel": "/k", "initrd": None, "append": "quiet", "args": (), "disks": (),
              "nics": (cluster.Nic("net0", "lan", "e1000", "52:54:00:00:00:01"),)}
    return cluster.Member(**{**values, **changes})


def line(of, incoming=False, machine_type=None, taps="tap0", files=None, snapshots=True):
    return machine.command_line("qemu", ["-L", "/f"], of, "tcg", PATHS,
                                files or {d.id: f"/m/{d.id}.qcow2" for d in of.disks},
                                {n.id: taps for n in of.nics}, machine_type, incoming, snapshots)


def values(argv, option):
    return [argv[i + 1] for i, a in enumerate(argv) if a == option]


class CommandLine(unittest.TestCase):
    def test_every_nic_has_a_mediator_and_no_vhost(self):
        nics = tuple(cluster.Nic(f"net{i}", "lan", "virtio-net-pci", f"52:54:00:00:00:0{i}")
                     for i in range(3))
        argv = line(member(nics=nics))
        filters = [o for o in values(argv, "-object") if o.startswith("filter-hotsnap")]
        self.assertEqual(len(filters), 3)
        self.assertTrue(all("vhost=off" in n for n in values(argv, "-netdev")))
        self.assertIn("hotsnap-member,id=hs0,name=a,listen=unix:/r/a.hs", values(argv, "-object"))
        self.assertFalse([o for o in line(member(nics=nics), snapshots=False) if "hotsnap" in o])

    def test_a_port_for_the_guest_agent(self):
        argv = line(member(agent=True))
        self.assertIn("socket,id=agent,path=/r/a.ga,server=on,wait=off", values(argv, "-chardev"))
        self.assertTrue(any("chardev=agent" in device and "name=org.qemu.guest_agent.0" in device
                            for device in values(argv, "-device")))
        self.assertFalse([word for word in line(member()) if "agent" in word])
        # A member that had none cannot be restored as one that has: it is other hardware.
        self.assertIn("virtserialport", machine.hardware_difference(line(member()), argv))

    def test_only_pci_nics_have_a_boot_rom_to_leave_out(self):
        for model, has_rom in (("virtio-net-pci", True), ("e1000", True), ("ne2k_isa", False),
                               ("usb-net", False), ("virtio-net-device", False)):
            with self.subTest(model):
                nic = cluster.Nic("net0", "lan", model, "52:54:00:00:00:01")
                device, = values(line(member(nics=(nic,))), "-device")
                self.assertTrue(device.startswith(f"{model},"))
                self.assertEqual(device.endswith(",romfile="), has_rom)

    def test_several_queues(self):
        argv = line(member(nics=(cluster.Nic("net0", "lan", "virtio-net-pci", "", 4),)))
        self.assertTrue(values(argv, "-netdev")[0].endswith(",queues=4"))
        self.assertIn(",mq=on,vectors=10,", values(argv, "-device")[0])
        self.assertNotIn("queues", " ".join(line(member())))

    def test_labels(self):
        of = member(labels={"tier": "db", "site": "a"})
        objects = [o for o in values(line(of), "-object") if o.startswith("hotsnap-member,")]
        self.assertTrue(objects[0].endswith(",labels=site=a,,tier=db"), objects)
        self.assertIsNone(machine.hardware_difference(line(member()), line(of)))

    def test_disks(self):
        argv = line(member(disks=(
            disk(0), disk(1, "virtio-scsi", iothread=True), disk(2, "ahci"), disk(3, "ahci"),
            disk(4, "ide", read_only=True), disk(5, iothread=True, serial="a,b"))))
        nodes = {n["node-name"]: n for n in map(json.loads, values(argv, "-blockdev"))}
        self.assertEqual(nodes["disk0"]["file"]["filename"], "/m/disk0.qcow2")
        self.assertEqual((nodes["disk4"]["driver"], nodes["disk4"]["read-only"],
                          nodes["disk4"]["file"]["filename"]), ("raw", True, "/g.raw"))
        self.assertEqual(values(argv, "-device")[:8], [
            "virtio-scsi-pci,id=scsi0,iothread=iothread-scsi0", "ahci,id=ahci0",
            "virtio-blk-pci,drive=disk0,id=disk0-dev",
            "scsi-hd,bus=scsi0.0,drive=disk1,id=disk1-dev",
            "ide-hd,bus=ahci0.0,drive=disk2,id=disk2-dev",
            "ide-hd,bus=ahci0.1,drive=disk3,id=disk3-dev",
            "ide-hd,drive=disk4,id=disk4-dev",
            "virtio-blk-pci,drive=disk5,id=disk5-dev,serial=a,,b,iothread=iothread-disk5"])

    def test_restore_starts_the_same_machine(self):
        of = member(disks=(disk(0),))
        saved = line(of, machine_type="pc-q35-10.0")
        again = line(of, incoming=True, machine_type="pc-q35-10.0", taps="tap9",
                     files={"disk0": "/m/disk0-7.qcow2"})
        self.assertEqual(again[-3:], ["-incoming", "defer", "-S"])
        self.assertIsNone(machine.hardware_difference(saved, again))

    def test_other_hardware_is_told(self):
        saved = line(member(disks=(disk(0),)))
        for changes, part in (({"memory": 512 << 20}, "size=512M"), ({"cpus": 4}, "-smp 4"),
                              ({"cpu": "max"}, "-cpu max"), ({"disks": ()}, "virtio-blk-pci"),
                              ({"kernel": None, "append": None}, "-kernel"),
                              ({"args": ("-device", "virtio-rng-pci")}, "virtio-rng-pci"),
                              ({"nics": ()}, "e1000")):
            with self.subTest(part):
                other = line(member(**{"disks": (disk(0),), **changes}))
                self.assertIn(part, machine.hardware_difference(saved, other))

    def test_properties_of_the_machine_are_kept_and_compared(self):
        of = member(machine="q35,smm=off,hpet=off")
        saved = line(of)
        again = line(of, machine_type="pc-q35-10.0")
        self.assertEqual(values(again, "-machine"), ["pc-q35-10.0,smm=off,hpet=off"])
        self.assertIsNone(machine.hardware_difference(saved, again))
        for same in ("hpet=off,type=q35,smm=off", "q35,hpet=off,smm=off,mem-merge=off"):
            self.assertIsNone(machine.hardware_difference(saved, line(member(machine=same))))
        for other in ("q35", "q35,smm=off,hpet=on"):
            with self.subTest(other):
                self.assertIn("-machine hpet=off",
                              machine.hardware_difference(saved, line(member(machine=other))))

    def test_displays_and_monitors_are_the_hosts(self):
        self.assertIsNone(machine.hardware_difference(
            line(member(args=("-vnc", ":1"))), line(member(args=("-vnc", ":7", "-gdb", "none")))))

    def test_a_changed_kernel_file_or_command_line_is_no_other_machine(self):
        self.assertIsNone(machine.hardware_difference(
            line(member()), line(member(kernel="/k2", append="other"))))

    def test_taps_fit_into_an_interface_name(self):
        nics = tuple(cluster.Nic(f"net{i}", "lan", "e1000", "") for i in range(16))
        members = tuple(member(name=f"{'long' * 8}{i}", nics=nics) for i in range(120))
        named = [t for taps in lab.taps(cluster.Cluster(
            "c", "", "/d", "tcg", None, ("lan",), members)).values() for t in taps.values()]
        self.assertEqual(len(set(named)), 120 * 16)
        self.assertLessEqual(max(map(len, named)), 15)


class Firmware(unittest.TestCase):
    def test_probe_is_entered_at_its_end(self):
        image = accel.probe_firmware()
        self.assertEqual(len(image), 65536)
        self.assertEqual(image[0xfff0:0xfff5], b"\xea\x00\x00\x00\xf0")
        self.assertIn(accel.LOOPS.to_bytes(4, "little"), image[:16])


class Processes(unittest.TestCase):
    def start(self):
        with tempfile.NamedTemporaryFile() as log:
            return process.spawn([sys.executable, "-c", "import time; time.sleep(60)"], log.name)

    def test_killed_once(self):
        child = self.start()
        self.assertTrue(process.alive(child))
        self.assertTrue(process.end(child))
        self.assertFalse(process.alive(child))
        self.assertTrue(process.end(child))

    def test_another_process_of_that_number_is_left_alone(self):
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
            own = process.identity(other.pid)
            stale = dataclasses.replace(own, start=own.start - 1)
            self.assertFalse(process.alive(stale))
            process.end(stale)
            stale = dataclasses.replace(own, boot="another")
            process.end(stale)
            self.assertIsNone(other.poll())
            other.kill()

    def test_does_not_end(self):
        child = self.start()
        self.assertFalse(process.end(child, 0, timeout=0.05))
        process.end(child)

    def test_no_process(self):
        self.assertFalse(process.alive(None))
        self.assertFalse(process.alive(process.Identity(os.getpid(), None, process.boot_id())))


if __name__ == "__main__":
    unittest.main()
