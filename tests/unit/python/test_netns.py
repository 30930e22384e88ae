# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster's network: what is made works, and nothing of it is left, also after a failure."""

import json
import os
import subprocess
import unittest

from hotsnap.host.netns import Network, NetworkError, several_queues, tap_netdev

NAME = f"hs-unit-{os.getpid()}"


class Names(unittest.TestCase):
    def test_bad_names(self):
        for name, taps in (("", []), ("a/b", []), ("-x", []), ("ok", ["much-too-long-name"]),
                           ("ok", ["br0"]), ("ok", ["t0", "t0"]), ("ok", ["a b"])):
            with self.subTest(name=name, taps=taps), self.assertRaises(NetworkError):
                Network(name, taps)

    def test_frames_pass_through_qemu(self):
        self.assertIn("vhost=off", tap_netdev("n0", "tap0"))

    def test_several_queues(self):
        self.assertNotIn("queues", tap_netdev("n0", "tap0"))
        self.assertEqual(several_queues(1), "")
        self.assertIn(",queues=4", tap_netdev("n0", "tap0", 4))
        self.assertEqual(several_queues(4), ",mq=on,vectors=10")


@unittest.skipUnless(os.geteuid() == 0, "making a network namespace needs root")
class Namespaces(unittest.TestCase):
    def links(self, network):
        out = subprocess.run(network.inside(["ip", "-j", "link"]), check=True, capture_output=True)
        return {link["ifname"]: link for link in json.loads(out.stdout)}

    def test_bridge_and_taps(self):
        with Network(NAME, ["t0", "t1"], "10.77.0.254/24") as network:
            links = self.links(network)
            self.assertEqual(set(links), {"lo", "br0", "t0", "t1"})
            self.assertEqual([links[tap]["master"] for tap in network.taps], ["br0", "br0"])
            network.add_tap("t2")
            self.assertIn("t2", self.links(network))
            network.add_bridge("br1")
            network.add_tap("t3", "br1")
            self.assertEqual(self.links(network)["t3"]["master"], "br1")
            address = subprocess.run(network.inside(["ip", "-o", "-4", "address", "show", "br0"]),
                                     check=True, capture_output=True, text=True).stdout
            self.assertIn("10.77.0.254/24", address)
            with subprocess.Popen(network.inside(["sleep", "60"])) as child:
                try:
                    # The process is the command itself, so that it can be signalled and waited for.
                    while not network.pids():
                        self.assertIsNone(child.poll())
                    self.assertEqual(network.pids(), [child.pid])
                finally:
                    child.kill()
            with self.assertRaisesRegex(NetworkError, "exists"):
                Network(NAME, []).create()
        self.assertFalse(network.exists())

    def test_taps_with_several_queues(self):
        with Network(NAME, ["t0", "t1"], queues={"t1": 2}) as network:
            network.add_tap("t2", queues=3)
            network.add_tap("t3")
            out = subprocess.run(network.inside(["ip", "-d", "-j", "link"]), check=True,
                                 capture_output=True)
            several = {link["ifname"] for link in json.loads(out.stdout)
                       if link.get("linkinfo", {}).get("info_data", {}).get("multi_queue")}
            self.assertEqual(several, {"t1", "t2"})

    def test_no_mount_is_left(self):
        def mounts():
            with open("/proc/self/mounts", encoding="ascii") as table:
                return table.read()

        with Network(NAME, []) as network:
            self.assertIn(network.path, mounts())
            others = set(os.listdir("/run/netns")) - {NAME}
        self.assertNotIn(network.path, mounts())
        # Those of other programs need it.
        self.assertEqual(" /run/netns " in mounts(), bool(others))

    def test_nothing_is_left_after_a_failure(self):
        with self.assertRaises(NetworkError):
            Network(NAME, ["t0"], "not-an-address").create()
        self.assertFalse(Network(NAME, []).exists())
        with self.assertRaises(KeyError), Network(NAME, []):
            raise KeyError
        self.assertFalse(Network(NAME, []).exists())
        Network(NAME, []).destroy()


if __name__ == "__main__":
    unittest.main()
