# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk layer has its name once it is whole, whoever makes it: a host or command that fails
meanwhile leaves a file that nothing takes for a layer."""

import contextlib
import ctypes
import os
import struct
import subprocess
import unittest
from unittest import mock

from hotsnap.commands import lifecycle, snapshot
from hotsnap.disks import merge
from hotsnap.errors import HotsnapError
from hotsnap.host import atomic
from hotsnap.qemu import binaries
from test_operator_restore import ForkOfOne

CREATE, MOVED_TO = 0x100, 0x80  # <sys/inotify.h>
EVENT = struct.Struct("iIII")


@contextlib.contextmanager
def names_created(folder):
    """The names under which files were made in a folder, but for those that were renamed into."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    found = {"created": [], "renamed": []}
    try:
        if libc.inotify_add_watch(handle, os.fsencode(folder), CREATE | MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        yield found
        data = os.read(handle, 1 << 20)
    finally:
        os.close(handle)
    while data:
        _, mask, _, length = EVENT.unpack_from(data)
        name = data[EVENT.size:EVENT.size + length].rstrip(b"\0").decode()
        found["created" if mask & CREATE else "renamed"].append(name)
        data = data[EVENT.size + length:]


def is_layer(name):
    return name.endswith(".qcow2")


class HalfMade(ForkOfOne):
    def test_names(self):
        folder = self.state.member_folder("a")
        os.makedirs(folder, exist_ok=True)
        with names_created(folder) as found:
            self.up()
            self.snapshot()
            with self.state.locked():
                snapshot.restore(self.state, self.fleet, self.bundle("t1"), replace=True,
                                 quiet=True)
        layers = [name for name in found["renamed"] if is_layer(name)]
        self.assertEqual(len(layers), 3)  # of up, the snapshot and the restore
        self.assertEqual([name for name in found["created"] if is_layer(name)], [])
        self.assertEqual([name for name in os.listdir(folder) if ".new" in name], [])

    def test_the_watch_sees_a_layer_that_is_made_under_its_name(self):
        folder = self.state.member_folder("a")
        os.makedirs(folder, exist_ok=True)
        with names_created(folder) as found:
            binaries.run_img(self.image_tool, "create", "-q", "-f", "qcow2",
                             os.path.join(folder, "x.qcow2"), "1M")
        self.assertEqual(found["created"], ["x.qcow2"])

    def leave(self):
        """As QEMU and qemu-img leave it when they are killed."""
        path = os.path.join(self.state.member_folder("a"), "a-disk0-t0.qcow2" + atomic.UNFINISHED)
        with open(path, "wb") as stream:
            stream.write(b"QFI")
        return path

    def test_what_is_left_is_no_layer_and_goes(self):
        for running in (True, False):
            with self.subTest(running=running):
                self.up()
                if not running:
                    self.down()
                left = self.leave()
                with self.state.locked():
                    merge.tidy(self.state, self.fleet)
                self.assertFalse(os.path.exists(left))
                self.down()

    def test_a_name_that_is_left_over_is_used_again(self):
        self.up()
        path = os.path.join(self.state.member_folder("a"), "a-disk0-dev-t1.qcow2")
        with open(path + atomic.UNFINISHED, "wb") as stream:
            stream.write(b"x" * (1 << 20))
        self.snapshot()
        self.assertFalse(os.path.exists(path + atomic.UNFINISHED))
        self.assertEqual(self.active(), path)
        subprocess.run([self.image_tool, "check", "-q", "-U", path], check=True)

    def test_a_tool_that_fails_leaves_nothing(self):
        def fail(_, *arguments):
            with open(arguments[-2], "wb"):
                raise HotsnapError("qemu-img create: no space")
        folder = self.state.member_folder("a")
        with mock.patch.object(binaries, "run_img", fail), self.state.locked(), \
                self.assertRaisesRegex(HotsnapError, "no space"):
            lifecycle.up(self.state, self.fleet)
        self.assertEqual([name for name in os.listdir(folder) if "qcow2" in name], [])


if __name__ == "__main__":
    unittest.main()
