# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that labs add by `args`: a member with them is saved and restored, or refused before the
snapshot by one error that names the device. The guest is a firmware."""

import json
import os
import socket
import unittest
import uuid

from hotsnap.errors import HotsnapError
from lab_fixtures import HEAD, Lab

MACHINE = HEAD.replace("16M", '32M"\nmachine = "q35')
FILTER = ("-object", "filter-hotsnap,id=hsf-n,netdev=n,member=hs0")
DEVICES = (
    "-object", "memory-backend-memfd,id=ram,size=32M,share=on", "-machine", "memory-backend=ram",
    "-device", "virtio-vga", "-device", "virtio-gpu-pci",
    "-audiodev", "none,id=s", "-device", "intel-hda", "-device", "hda-duplex,audiodev=s",
    "-device", "AC97,audiodev=s", "-device", "qemu-xhci", "-device", "usb-tablet",
    "-device", "usb-ehci,id=ehci", "-drive", "if=none,id=u,format=raw,readonly=on,file={folder}/u.img",
    "-device", "usb-storage,drive=u,bus=ehci.0", "-device", "virtio-serial-pci",
    "-chardev", "null,id=c", "-device", "virtserialport,chardev=c,name=org.qemu.guest_agent.0",
    "-device", "virtio-balloon-pci,free-page-reporting=on", "-device", "i6300esb",
    "-device", "vmgenid,guid=auto,id=gen")
HOST = ("-vnc", "unix:{folder}/vnc{number}", "-netdev", "user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "e1000,netdev=n,mac=52:54:00:00:00:09", *FILTER)


class Devices(Lab):
    def setUp(self):
        super().setUp()
        with open(self.path("u.img"), "wb") as stream:
            stream.truncate(1 << 20)

    def with_args(self, *args, **values):
        put = [a.format(folder=self.folder, **values) if "{" in a else a for a in args]
        self.describe(f"args = {json.dumps(put)}\n", MACHINE)

    def generation(self):
        """The one that the guest sees: its place is not told, so it is looked for."""
        found = uuid.UUID(self.monitor("query-vm-generation-id")["guid"])
        self.monitor("pmemsave", val=0, size=32 << 20, filename=self.path("memory"))
        self.assertIn(found.bytes_le, self.read_file(self.path("memory")))
        return found

    def test_many_devices_and_what_is_the_hosts(self):
        """After the restore the member has other ports and another display, and a new generation,
        so that its guest takes new random numbers."""
        self.with_args(*DEVICES, *HOST, number=1, port=2201)
        self.up()
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.connect(self.path("vnc1"))
            self.assertEqual(viewer.recv(4), b"RFB ")
            self.booted()
            before = self.generation()
            self.take_snapshot("t1")
            self.assertEqual(self.generation(), before)
        self.with_args(*DEVICES, *HOST, number=2, port=2202)
        self.restore_from("t1")
        self.assertEqual(self.monitor("query-status")["status"], "running")
        self.assertTrue(os.path.exists(self.path("vnc2")))
        after = self.generation()
        self.assertNotEqual(after, before)
        self.restore_from("t1")
        self.assertNotIn(self.generation(), (before, after))

    def booted(self):
        """The firmware has made the tables in which the generation stands."""
        found = uuid.UUID(self.monitor("query-vm-generation-id")["guid"])
        self.wait(lambda: self.monitor("pmemsave", val=0, size=32 << 20,
                                       filename=self.path("memory")) is not None
                  and found.bytes_le in self.read_file(self.path("memory")))

    def test_refused_before_the_snapshot(self):
        for name, part, *args in (
                ("sound", "virtio-sound", "-audiodev", "none,id=s",
                 "-device", "virtio-sound-pci,audiodev=s"),
                ("shared", "ivshmem", "-object", "memory-backend-ram,id=m,size=1M,share=on",
                 "-device", "ivshmem-plain,memdev=m"),
                ("user", "NIC 'e1000.0' has no packet mediator", "-netdev", "user,id=n",
                 "-device", "e1000,netdev=n"),
                ("tunnel", "has no packet mediator", "-netdev",
                 "socket,id=n,udp=127.0.0.1:9,localaddr=127.0.0.1:9999",
                 "-device", "e1000,netdev=n")):
            with self.subTest(name):
                self.with_args(*args)
                self.up()
                with self.assertRaisesRegex(HotsnapError, part) as caught:
                    self.take_snapshot(name)
                self.assertIn("member 'a' refuses", str(caught.exception))
                self.assertEqual(os.listdir(self.state.bundles), [])
                self.assertEqual(self.monitor("query-status")["status"], "running")
                self.down()

    def test_a_tunnel_with_a_mediator(self):
        self.with_args("-netdev", "socket,id=n,udp=127.0.0.1:9,localaddr=127.0.0.1:9999",
                       "-device", "e1000,netdev=n", *FILTER)
        self.up()
        self.take_snapshot("t1")
        self.restore_from("t1")


if __name__ == "__main__":
    unittest.main()
