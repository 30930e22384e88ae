# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench: what it makes of samples, events, counters and reports; and that it refuses what
would give a wrong figure."""

import argparse
import contextlib
import io
import json
import mmap
import os
import tempfile
import unittest

from hotsnap.errors import HotsnapError
from hotsnap.model import bundle, cluster
from hotsnap_bench import (cluster as bench_cluster, copy as bench_copy, core as bench,
                           crowd as bench_crowd, guest as bench_guest, pause as bench_pause)
from support.shell import answer, parse_netstat, serial_port
from hotsnap_bench.stats import Line, Series, medians_by_name, ratio, show
from support import trial


def event(name, microseconds, seconds=1763600000):
    return {"event": name, "timestamp": {"seconds": seconds, "microseconds": microseconds}}


class Statistics(unittest.TestCase):
    def test_series(self):
        series = Series("ms", [3.0, 1.0, 2.0, 100.0])
        self.assertEqual(series.median, 2.5)
        self.assertEqual(series.report(), {"unit": "ms", "n": 4, "median": 2.5, "min": 1.0,
                                           "max": 100.0, "samples": [3.0, 1.0, 2.0, 100.0]})

    def test_empty_series_has_no_figures(self):
        self.assertIsNone(Series("ms").median)
        self.assertEqual(Series("ms").report(), {"unit": "ms", "n": 0, "samples": []})

    def test_ratio(self):
        self.assertEqual(ratio(1.0, 4.0), 0.25)
        self.assertIsNone(ratio(None, 4.0))
        self.assertIsNone(ratio(1.0, 0.0))

    def test_medians_by_name(self):
        found = medians_by_name([{"stop": 1, "dump": 9}, {"stop": 5}, {"stop": 3}])
        self.assertEqual(found, {"stop": 3, "dump": 0})

    def test_table(self):
        text = show([Line("pause", Series("ms", [1.0, 2.0, 4.5]), target="at most 5"),
                     Line("missing", Series("ms")), Line("count", 0, "count", "0")])
        rows = [row.split() for row in text.splitlines()]
        self.assertEqual(rows[1], ["pause", "ms", "2.00", "1.00", "4.50", "3", "at", "most", "5"])
        self.assertEqual(rows[2], ["missing", "ms", "-", "-", "-", "0"])
        self.assertEqual(rows[3], ["count", "count", "0", "0"])


class Standstill(unittest.TestCase):
    def test_across_a_second(self):
        events = [event("STOP", 999_000), event("HOTSNAP_PHASE", 5),
                  event("RESUME", 2_500, 1763600001)]
        self.assertAlmostEqual(bench_guest.standstill_ms(events), 3.5)

    def test_refuses_what_is_not_one_pause(self):
        for events in ([], [event("STOP", 1)], [event("RESUME", 1)],
                       [event("STOP", 1), event("RESUME", 2), event("STOP", 3)]):
            with self.subTest(events=[e["event"] for e in events]):
                with self.assertRaises(HotsnapError):
                    bench_guest.standstill_ms(events)


class GuestShell(unittest.TestCase):
    ECHO = "echo '<<'beg; cat x; echo '<<'end\r\n\x1b[?2004l\r"

    def test_answer_without_echo_and_control_codes(self):
        output = ("root@vm:/# " + self.ECHO +
                  "<<beg\r\none\r\ntwo\r\n<<end\r\n\x1b[?2004hroot@vm:/# ")
        self.assertEqual(answer(output), "one\ntwo\n")

    def test_nothing_before_all_of_it_is_there(self):
        self.assertIsNone(answer(self.ECHO))
        self.assertIsNone(answer(self.ECHO + "<<beg\r\none\r\n"))
        self.assertIsNone(answer(self.ECHO + "<<beg\r\none\r\n<<en"))

    def test_comma_in_the_path_of_a_port(self):
        self.assertIn("path=/a,,b,", serial_port("/a,b")[1])

    NETSTAT = ("TcpExt: SyncookiesSent TCPTimeouts TCPLossProbes\nTcpExt: 0 17 4\n"
               "IpExt: InNoRoutes TCPTimeouts\nIpExt: 1 99\n")

    def test_counters(self):
        self.assertEqual(parse_netstat(self.NETSTAT)["TCPTimeouts"], 17)

    def test_counters_cut_off(self):
        for text in ("", "TcpExt: A B\n", "TcpExt: A B\nTcpExt: 1\n"):
            with self.subTest(text=text), self.assertRaises(HotsnapError):
                parse_netstat(text)


class Rates(unittest.TestCase):
    def report(self, **changes):
        job = {"error": 0, "write": {"io_bytes": 1 << 30, "runtime": 2000}}
        job["write"].update({k: v for k, v in changes.items() if k != "error"})
        job["error"] = changes.get("error", 0)
        return "fio: a remark\n" + json.dumps({"jobs": [job]})

    def test_fio(self):
        self.assertEqual(bench_copy.fio_rate(self.report(), 1 << 30), (1 << 30) / 2)

    def test_fio_that_did_not_write_all(self):
        for changes in ({"io_bytes": 1 << 29}, {"error": 28}):
            with self.subTest(changes), self.assertRaises(HotsnapError):
                bench_copy.fio_rate(self.report(**changes), 1 << 30)

    def test_fio_gets_what_the_copy_does(self):
        given = bench_copy.fio_arguments("/x", 12345)
        for part in ("--direct=1", "--bs=1048576", "--iodepth=32", "--size=12345", "--rw=write"):
            self.assertIn(part, given)

    def test_copy_counts_what_had_been_written(self):
        def memory(written, copy_us):
            return bundle.Memory("state", "sums", "0", 0, bundle.Pages(*[0] * 7),
                                 bytes_written=written, copy_us=copy_us)

        self.assertEqual(bench_copy.copy_rate(memory((64 + 512) << 20, 500_000)), 1 << 30)
        self.assertEqual(bench_copy.copy_rate(memory(1, 1)), 0)
        with self.assertRaises(HotsnapError):
            bench_copy.copy_rate(memory(None, None))


class Machines(unittest.TestCase):
    def test_description_is_a_cluster_file(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("vmlinuz", "initrd.img", "rootfs.raw", "qemu"):
                open(os.path.join(folder, name), "wb").close()
            path = os.path.join(folder, "cluster.toml")
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(bench_guest.description("p", folder, os.path.join(folder, "qemu"), 2,
                                                     bench_pause.LOAD))
            member = cluster.load(path).members[0]
        self.assertEqual(member.memory, 2 << 30)
        self.assertTrue(any("size=2G,prealloc=on" in word for word in member.args))
        self.assertIn("hs.role=writer", member.append)

    @staticmethod
    def huge_in_child(turn_off):
        """Whether a process that asks for huge pages gets some. A process of its own, since what
        was turned off stays off."""
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                if turn_off:
                    bench_guest.small_pages_only()
                memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                memory.madvise(mmap.MADV_HUGEPAGE)
                memory[:] = b"x" * len(memory)
                os._exit(1 if bench_guest.huge_bytes(os.getpid()) else 0)
            os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_no_huge_pages(self):
        self.assertEqual(self.huge_in_child(turn_off=True), 0)

    def test_huge_pages_would_be_seen(self):
        found = self.huge_in_child(turn_off=False)
        if found == 0:
            self.skipTest("this host gives no huge pages, or has none left")
        self.assertEqual(found, 1)


class CommandLine(unittest.TestCase):
    def test_parts_in_the_order_of_measurement(self):
        self.assertEqual(bench.arguments(["core"]).parts, ["pause", "stock", "copy", "cluster", "crowd"])
        self.assertEqual(bench.arguments(["core", "--only", "copy", "--only", "pause"]).parts,
                         ["pause", "copy"])

    def test_sizes(self):
        self.assertEqual(bench.parse_sizes("8,1,2,1"), [1, 2, 8])
        for text in ("", "0", "1.5", "2G", "1,,2", "-1"):
            with self.subTest(text), self.assertRaises(argparse.ArgumentTypeError):
                bench.parse_sizes(text)

    def test_wrong_arguments(self):
        for given in ([], ["all"], ["core", "--repeat", "0"], ["core", "--only", "nothing"]):
            with self.subTest(given), self.assertRaises(SystemExit) as left, \
                    contextlib.redirect_stderr(io.StringIO()):
                bench.arguments(given)
            self.assertEqual(left.exception.code, 2)


class Result(unittest.TestCase):
    def bench(self):
        made = bench.Bench.__new__(bench.Bench)
        made.sizes, made.repeat, made.facts = [1, 8], 2, {}
        made.pauses = made.stock_pauses = made.copies = made.clusters = made.crowds = None
        return made

    def test_figures(self):
        made = self.bench()
        made.pauses = {size: bench_pause.Pauses(
            Series("ms", [value]), Series("ms", [value]), idle=Series("ms", [value / 2]),
            floor=Series("ms", [0.5]), stall_mean=Series("us", [9.0]),
            stall_max=Series("us", [700.0, 100.0, 800.0])) for size, value in ((1, 3.0), (8, 3.6))}
        made.stock_pauses = bench_pause.StockPauses(Series("ms", [36.0, 72.0]))
        made.copies = bench_copy.Copies(Series("MiB/s", [90.0]), Series("MiB/s", [100.0]))
        made.clusters = bench_cluster.Clusters(Series("ms", [11.0, 12.0, 40.0]), timeouts=3)
        made.crowds = bench_crowd.Crowd(Series("ms", [20.0, 14.0, 13.0]))
        found = made.result()
        self.assertEqual({k: found[k] for k in found if k != "details"}, {
            "pause_ms": {"1GiB": 3.0, "8GiB": 3.6}, "stock_pause_ms": {"8GiB": 54.0},
            "pause_idle_ms": {"1GiB": 1.5, "8GiB": 1.8},
            "pause_floor_ms": {"1GiB": 0.5, "8GiB": 0.5},
            "stall_us_mean": {"1GiB": 9.0, "8GiB": 9.0},
            "stall_us_max": {"1GiB": 700.0, "8GiB": 700.0},
            "copy_vs_fio": 0.9, "backoff_max_ms": 12.0, "tcp_timeouts": 3, "backoff16_ms": 14.0})
        json.dumps(found)
        rows = {line.figure: line.value for line in made.lines()}
        self.assertAlmostEqual(rows["pause, 8 GiB to 1 GiB"], 1.2)
        self.assertAlmostEqual(rows["pause to stock pause, 8 GiB"], 3.6 / 54)
        self.assertAlmostEqual(rows["pause to stop and resume alone, 1 GiB, idle"], 3)

    def test_what_was_not_measured_has_no_figure(self):
        made = self.bench()
        self.assertEqual(list(made.result()), ["details"])
        self.assertEqual(made.lines(), [])

    def test_a_dead_connection_is_told(self):
        made = self.bench()
        made.clusters = bench_cluster.Clusters(checks=[trial.Check("a", True, ""),
                                                       trial.Check("b", False, "")])
        self.assertFalse(made.result()["details"]["cluster"]["connections_alive"])
        row = next(line for line in made.lines() if "restored" in line.figure)
        self.assertEqual((row.value, row.unit, row.target), (1, "of 2", "2"))


if __name__ == "__main__":
    unittest.main()
