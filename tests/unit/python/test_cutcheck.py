# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker of cuts: a consistent cut passes, and each single violation is found."""

import contextlib
import io
import json
import os
import shutil
import tempfile
import unittest
from unittest import mock

import image_fixtures as fixtures
from support import channel, cutcheck, disktag, tags
from support.cutcheck import CutError, Member, check_members

# a sent b 10 messages of which b has 8; b sent a 5, of which a has 5.
A_TO_B = {"udp_sent": 10, "tcp_sent": 20, "udp_received_max": 5, "udp_received": 5,
          "tcp_received": 6}
B_TO_A = {"udp_sent": 5, "tcp_sent": 6, "udp_received_max": 8, "udp_received": 8,
          "tcp_received": 20}
MACS = {"a": "52:54:00:77:00:01", "b": "52:54:00:77:00:02", "s": "52:54:00:77:00:03"}


def members(a=None, b=None, recorded=None, **kwargs):
    return [Member("a", {tags.CHATTER: fixtures.chatter("a", {"b": {**A_TO_B, **(a or {})}})}),
            Member("b", {tags.CHATTER: fixtures.chatter("b", {"a": {**B_TO_A, **(b or {})}},
                                                        **kwargs)},
                   recorded=recorded)]


class Messages(unittest.TestCase):
    def test_consistent(self):
        report = check_members(members())
        self.assertTrue(report.consistent, report.problems)
        self.assertEqual((report.orphans, report.in_flight, report.lost), (0, 2, 0))
        self.assertEqual(len(report.pairs), 4)

    def test_orphans(self):
        for a, b, orphans in (({}, {"udp_received_max": 11}, 1), ({}, {"tcp_received": 23}, 3),
                              ({"udp_received_max": 7}, {}, 2), ({"tcp_received": 9}, {}, 3),
                              ({"udp_sent": 0}, {}, 8)):
            with self.subTest(a=a, b=b):
                report = check_members(members(a, b))
                self.assertFalse(report.consistent)
                self.assertEqual(report.orphans, orphans)

    def test_orphans_are_not_set_off_against_messages_in_flight(self):
        report = check_members(members(b={"udp_received_max": 11, "tcp_received": 1}))
        self.assertEqual((report.orphans, report.in_flight), (1, 19))

    def test_losses_are_reported(self):
        report = check_members(members(b={"udp_gaps": 4, "udp_late": 1}))
        self.assertEqual(report.lost, 3)
        self.assertTrue(report.consistent)

    def test_another_incarnation(self):
        report = check_members(members(nonce=99))
        self.assertRegex(" ".join(report.problems), "another incarnation of b")
        self.assertFalse(report.consistent)

    def test_nothing_heard_yet(self):
        quiet = {"peer_nonce": 0}
        pair = members()
        for member in pair:
            for entry in member.tags[tags.CHATTER].entries:
                entry.peer_nonce = quiet["peer_nonce"]
        self.assertTrue(check_members(pair).consistent)

    def test_member_without_chatter(self):
        report = check_members([members()[0], Member("b", {})])
        self.assertRegex(" ".join(report.problems), "b: no chatter page")

    def test_members_that_do_not_know_each_other(self):
        stranger = Member("c", {tags.CHATTER: fixtures.chatter("c", {"x": {}})})
        self.assertFalse(check_members([*members(), stranger]).consistent)

    def test_same_member_twice(self):
        with self.assertRaises(CutError):
            check_members([*members(), members()[0]])


class Recorded(unittest.TestCase):
    def problems(self, numbers, **b):
        return check_members(members(b=b, recorded={"a": numbers})).problems

    def test_between_received_and_sent(self):
        self.assertEqual(self.problems([9, 10]), [])
        report = check_members(members(recorded={"a": [9]}))
        self.assertEqual([pair.recorded for pair in report.pairs if pair.sender == "a"], [1, None])

    def test_never_sent(self):
        self.assertRegex(self.problems([9, 11])[0], "11 is .* was not sent")
        self.assertRegex(self.problems([9, 11, 12])[0], r"11 \(and 1 more\) is .* was not sent")

    def test_received_already(self):
        self.assertRegex(self.problems([8])[0], "8 .* received already")

    def test_filling_a_gap_is_not_a_second_time(self):
        self.assertEqual(self.problems([7], udp_gaps=1), [])

    def test_twice(self):
        self.assertRegex(self.problems([9, 9])[0], "twice")


class Channel(unittest.TestCase):
    def read(self, data, vnet=None):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "channel.pcap")
            with open(path, "wb") as file:
                file.write(data)
            if vnet is None:
                return list(channel.messages(path))
            with open(f"{folder}/channel.vnet", "wb") as file:
                file.write(vnet)
            return list(channel.messages(path, f"{folder}/channel.vnet"))

    def test_messages(self):
        frames = [fixtures.message_frame("a", 3), fixtures.message_frame("c", 9), b"\xff" * 60, b"",
                  fixtures.message_frame("a", 4, port=53),
                  fixtures.message_frame("a", 5, to="525400770009")]
        self.assertEqual(self.read(fixtures.pcap(frames)), [
            channel.Message("a", 3, "52:54:00:77:00:02", ip="10.77.0.2"),
            channel.Message("c", 9, "52:54:00:77:00:02", ip="10.77.0.2"),
            channel.Message("a", 5, "52:54:00:77:00:09", ip="10.77.0.2")])

    def test_tags_fragments_and_long_messages(self):
        frames = [fixtures.message_frame("a", 1, tags="81000007"),
                  fixtures.message_frame("a", 2, tags="88a8006481000007"),
                  fixtures.message_frame("a", 3, padding=8000),
                  fixtures.message_frame("a", 4, fragment=0x2000),  # the first, more follow
                  fixtures.message_frame("a", 5, fragment=0x20B9)]  # from the middle
        self.assertEqual([message.number for message in self.read(fixtures.pcap(frames))],
                         [1, 2, 3, 4])

    def test_directions(self):
        # A frame that is no message has a direction, too.
        frames = [fixtures.message_frame("a", 3), b"\xff" * 60, fixtures.message_frame("a", 4)]
        for ways in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)):
            found = self.read(fixtures.pcap(frames), fixtures.vnet(ways))
            self.assertEqual([m.direction for m in found], [ways[0], ways[2]])

    def test_damaged_sidecar(self):
        data = fixtures.pcap([fixtures.message_frame("a", 3)])
        for vnet in (b"", b"HSVNET02" + fixtures.vnet([0])[8:], fixtures.vnet([0], size=24),
                     fixtures.vnet([0])[:-1], fixtures.vnet([0]) + bytes(20), fixtures.vnet([]),
                     fixtures.vnet([0, 0]), fixtures.vnet([2])):
            with self.subTest(vnet=vnet), self.assertRaises(channel.ChannelError):
                self.read(data, vnet)

    def test_truncated(self):
        whole = fixtures.pcap([fixtures.message_frame("a", 3)])
        for size in (0, 23, 30, len(whole) - 1):
            with self.subTest(size=size), self.assertRaises(channel.ChannelError):
                self.read(whole[:size])


class Blocks(unittest.TestCase):
    BLOCKS = 16

    def region(self, numbers):
        region = bytearray(self.BLOCKS * 4096)
        for number in numbers:
            at = number % self.BLOCKS * 4096
            region[at:at + 4096] = disktag.make_block(number, 77, "a")
        return bytes(region)

    def judge(self, region, issued, completed):
        tag = tags.Tag(tags.DISK, "a", 77, 1,
                       [tags.DiskCount("/dev/vdb", issued, completed, self.BLOCKS, 4096)])
        member = Member("a", {tags.DISK: tag}, disks=[("file", "raw")])
        report = cutcheck.CutReport()
        with mock.patch.object(disktag, "read_region", return_value=region):
            cutcheck.check_disk(report, member)
        return report

    def test_agreement(self):
        for last in (1, 15, 16, 17, 40):
            region = self.region(range(1, last + 1))
            for issued, completed in ((last, last), (last, last - 1), (last + 1, last)):
                with self.subTest(last=last, issued=issued):
                    report = self.judge(region, issued, completed)
                    self.assertTrue(report.consistent, report.problems)
                    self.assertEqual(report.disks[0]["on_disk"], last)

    def test_disk_older_than_memory(self):
        self.assertFalse(self.judge(self.region(range(1, 20)), 21, 20).consistent)

    def test_disk_newer_than_memory(self):
        self.assertFalse(self.judge(self.region(range(1, 23)), 21, 20).consistent)

    def test_missing_block_below_the_highest(self):
        numbers = [number for number in range(1, 40) if number != 30]
        self.assertRegex(self.judge(self.region(numbers), 39, 39).problems[0], "block 30")

    def test_torn_block(self):
        region = bytearray(self.region(range(1, 21)))
        region[20 % self.BLOCKS * 4096 + 2000] ^= 1
        self.assertFalse(self.judge(bytes(region), 20, 20).consistent)

    def test_blocks_of_an_earlier_boot_do_not_count(self):
        region = bytearray(self.region(range(1, 3)))
        region[9 * 4096:10 * 4096] = disktag.make_block(9, 76, "a")
        self.assertTrue(self.judge(bytes(region), 2, 2).consistent)

    def test_no_disk(self):
        self.assertFalse(self.judge(bytes(65536), 5, 4).consistent)

    def test_reading_a_real_file(self):
        try:
            disktag.default_qemu_img()
        except disktag.DiskError as error:
            self.skipTest(str(error))
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.region(range(1, 9)))
            file.flush()
            region = disktag.read_region(file.name, "raw", self.BLOCKS)
        self.assertEqual(disktag.scan(region, 77, self.BLOCKS).highest, 8)


class Bundles(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def put(self, name, data):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def bundle(self, b=None, frames=(), others=()):
        """`frames` are recorded by b; `others` are (member, direction, frame)."""
        recorded = [("b", channel.TO_GUEST, frame) for frame in frames] + list(others)
        entries = []
        switch = Member("s", {tags.CHATTER: fixtures.chatter("s", {"a": {}, "b": {}})})
        for member in [*members(b=b), *([switch] if others else [])]:
            mine = [(way, frame) for holder, way, frame in recorded if holder == member.name]
            self.put(f"{member.name}/state",
                     fixtures.member_image(*member.tags.values()))
            self.put(f"{member.name}/channel.pcap", fixtures.pcap([frame for _, frame in mine]))
            self.put(f"{member.name}/channel.vnet", fixtures.vnet([way for way, _ in mine]))
            entries.append({"name": member.name, "memory": {"file": f"{member.name}/state"},
                            "nics": [{"mac": MACS[member.name]}], "disks": [],
                            "channel": {"file": f"{member.name}/channel.pcap",
                                        "vnet": f"{member.name}/channel.vnet"}})
        self.put("manifest.json", json.dumps({"members": entries}).encode())

    def to_b(self, others, **how):
        """Checks a bundle with `others`. Returns the number of messages from a that are recorded
        for b, and the problems with them."""
        self.bundle(others=others)
        report = cutcheck.check_bundle(self.folder, **how)
        counts = [pair.recorded for pair in report.pairs
                  if (pair.sender, pair.receiver, pair.protocol) == ("a", "b", "udp")]
        return counts, [problem for problem in report.problems if problem.startswith("a to b:")]

    def run_main(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            return cutcheck.main(list(arguments)), out.getvalue()

    def test_consistent(self):
        self.bundle(frames=[fixtures.message_frame("a", 9)])
        status, out = self.run_main("--json", self.folder)
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(out)["orphans"], 0)

    def test_orphans(self):
        self.bundle(b={"udp_received_max": 12})
        status, out = self.run_main(self.folder)
        self.assertEqual(status, 1)
        self.assertIn("NOT CONSISTENT: orphans=2", out)

    def test_recorded_frame_that_nobody_sent(self):
        self.bundle(frames=[fixtures.message_frame("a", 11)])
        self.assertEqual(self.run_main(self.folder)[0], 1)

    def test_frame_that_its_sender_recorded(self):
        self.assertEqual(self.to_b([("a", 1, fixtures.message_frame("a", 9))]), ([1], []))

    def test_frame_to_another_guest_is_not_the_members(self):
        for holder in ("a", "s"):
            self.assertEqual(self.to_b([(holder, 0, fixtures.message_frame("a", 11))]), ([0], []))

    def test_frames_at_a_switch(self):
        frames = [("s", 0, fixtures.message_frame("a", 10)),
                  ("s", 1, fixtures.message_frame("a", 9))]
        self.assertEqual(self.to_b(frames, switches=["s"]), ([2], []))

    def test_frames_from_the_future_wherever_they_are(self):
        for holder, way in (("a", 1), ("b", 0), ("s", 0), ("s", 1)):
            with self.subTest(holder=holder, way=way):
                _, problems = self.to_b([(holder, way, fixtures.message_frame("a", 11))],
                                        switches=["s"])
                self.assertRegex("".join(problems), "11 .* was not sent")

    def test_frame_at_two_members(self):
        frames = [("s", 1, fixtures.message_frame("a", 9)),
                  ("b", 0, fixtures.message_frame("a", 9))]
        self.assertRegex(self.to_b(frames)[1][0], "twice")

    def test_guests_told_apart_by_ip_addresses(self):
        frames = [("b", 0, fixtures.message_frame("a", 9, to="0180c200000e")),
                  ("a", 1, fixtures.message_frame("a", 10, ip="10.78.0.2")),
                  ("b", 0, fixtures.message_frame("a", 11, ip="10.77.0.9"))]
        self.assertEqual(self.to_b(frames, addresses={"10.77.0.2": "b", "10.78.0.2": "b"}),
                         ([2], []))

    def test_images_alone(self):
        self.bundle()
        self.assertEqual(self.run_main(f"{self.folder}/a/state", f"{self.folder}/b/state")[0], 0)

    def test_unreadable(self):
        self.assertEqual(self.run_main(self.folder)[0], 2)
        self.bundle()
        os.truncate(os.path.join(self.folder, "a", "state"), 1 << 20)
        self.assertEqual(self.run_main(self.folder)[0], 2)

    def test_two_pages_of_one_kind(self):
        tag = fixtures.chatter("a", {"b": A_TO_B})
        path = self.put("x", fixtures.member_image(tag, tag))
        with self.assertRaisesRegex(CutError, "two chatter pages"):
            cutcheck.read_member(path)

    def test_image_of_another_member(self):
        path = self.put("x", fixtures.member_image(fixtures.chatter("a", {"b": A_TO_B})))
        with self.assertRaisesRegex(CutError, "several members"):
            cutcheck.read_member(path, "b")


if __name__ == "__main__":
    unittest.main()
