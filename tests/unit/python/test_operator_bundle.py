# SPDX-License-Identifier: GPL-2.0-or-later
"""Manifests: a whole one is read, and each way of being damaged gets one clear error."""

import contextlib
import io
import json
import os
import re
import tempfile
import types
import unittest

import operator_fixtures
from hotsnap.commands import listing
from hotsnap.errors import UsageError
from hotsnap.model import bundle
from hotsnap.ui import timeline


class Documented(unittest.TestCase):
    """docs/formats/bundle.md names every key that is ever written."""

    PUT = r'(?:qdict_put\w*|put_\w+|hotsnap_report_xxh3)\(\w+, "(\w+)"'
    COUNTER = r"^ +X\((\w+)\)"
    # File -> pattern of a key, and how many there are at least.
    WRITERS = {
        "qemu/overlay/hotsnap/report.c": (PUT, 4),
        "qemu/overlay/hotsnap/parts/memory.c": (PUT, 7),
        "qemu/overlay/hotsnap/parts/disks.c": (PUT, 9),
        "qemu/overlay/hotsnap/parts/network.c": (PUT, 7),
        "snapshot/include/hotsnap/snapshot.h": (COUNTER, 18),
        "coordinator/include/hotsnap/mediator.h": (COUNTER, 12),
        "coordinator/snapshot_run.cc": (r'\{"(\w+)",', 8),
        "coordinator/wire/manifest.cc": (r'(?:json|cut)\["(\w+)"\]|\{"(\w+)",', 13),
    }
    # Dropped from the report; of a restore's result; an option of QEMU's.
    NOT_OURS = {"info", "bundle", "driver"}

    def keys(self, source, pattern):
        with open(os.path.join(operator_fixtures.CHECKOUT, source), encoding="utf-8") as stream:
            return {key for groups in re.findall(pattern, stream.read(), re.MULTILINE)
                    for key in ([groups] if isinstance(groups, str) else groups) if key}

    def test_all_keys(self):
        with open(os.path.join(operator_fixtures.CHECKOUT, "docs", "formats", "bundle.md"),
                  encoding="utf-8") as stream:
            documented = set(re.findall(r"`([a-z_0-9]+)(?:\.[a-z_]+)?`", stream.read()))
        for source, (pattern, least) in self.WRITERS.items():
            keys = self.keys(source, pattern)
            self.assertGreaterEqual(len(keys), least, f"{source}: the pattern finds {keys}")
            self.assertEqual(keys - documented - self.NOT_OURS, set(), source)


class Manifest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = folder.name
        self.path = operator_fixtures.make_bundle(self.directory)
        self.file = os.path.join(self.path, "manifest.json")

    def rewrite(self, change):
        with open(self.file, encoding="utf-8") as stream:
            manifest = json.load(stream)
        change(manifest)
        with open(self.file, "w", encoding="utf-8") as stream:
            json.dump(manifest, stream)

    def refuse(self, pattern):
        with self.assertRaisesRegex(bundle.BundleError, pattern) as caught:
            bundle.read(self.path)
        self.assertIn(self.path, str(caught.exception))

    def test_whole(self):
        found = bundle.read(self.path)
        self.assertEqual((found.tag, len(found.members), found.frames(), found.lost()),
                         ("t1", 3, 3, 0))
        self.assertAlmostEqual(found.downtime_max_ms(), 2.4)
        self.assertAlmostEqual(found.backoff_max_ms(), 3.5)

    def test_doubts_are_told(self):
        self.assertEqual(bundle.read(self.path).doubts(), [])
        self.assertNotIn("warning", listing.report(bundle.read(self.path)))

        def change(manifest):
            manifest["cut"].update(lost_between=2, unmarked=3)
            manifest["members"][0]["channel"].update(lost=5, uncolored=4, routed_sent=3)
            manifest["members"][1]["channel"].update(routed_sent=6, routed_received=2)
        self.rewrite(change)
        found = bundle.read(self.path)
        self.assertEqual(found.lost(), 7)
        text = listing.report(found)
        for start in ("7 frames on their way", "3 paths between NICs", "4 recorded frames",
                      "9 frames between members"):
            self.assertIn(f"warning: {start}", text)

    def test_mode_is_told(self):
        def change(manifest):
            manifest["mode"] = "precopy"
            for number, member in enumerate(manifest["members"]):
                member["memory"]["pages"].update(precopy=700, background=200)
                member["memory"].update(precopy_converged=int(number > 0), precopy_written=2560)

        self.assertNotIn("PRECOPY", listing.report(bundle.read(self.path)))
        self.rewrite(change)
        text = listing.report(bundle.read(self.path))
        first = bundle.read(self.path).members[0].name
        self.assertIn("did not converge", text)
        self.assertIn(f"left for after it: {first} 10 MiB\n", text)
        self.assertRegex(text, r"PRECOPY +BACKGROUND")
        self.rewrite(lambda m: m.update(mode="stop-and-copy"))
        self.assertIn("stood still", listing.report(bundle.read(self.path)))

    def test_finish_is_told(self):
        self.assertNotIn("copies", listing.report(bundle.read(self.path)))
        finish = {"duration_us": 20_000_000, "delay_us": 0, "due_ns": 5, "spread_us": 3100,
                  "members": [
                      {"name": "a", "deviation_us": 900, "clock_error_us": 0},
                      {"name": "b", "deviation_us": -2200, "clock_error_us": 40},
                      {"name": "c", "deviation_us": None, "clock_error_us": 40}]}
        self.rewrite(lambda m: m.update(finish=finish))
        self.assertIn("all copies were to end 20.000 s after the cut; they did so within 2.2 ms",
                      listing.report(bundle.read(self.path)))
        self.rewrite(lambda m: m["finish"].update(delay_us=1_500_000))
        self.assertIn("end 21.500 s after the cut (20.000 s were asked for, and a member could",
                      listing.report(bundle.read(self.path)))

    def test_it_is_written_as_it_was(self):
        """Also the keys that this program does not know."""
        self.rewrite(lambda m: m["members"][1].update(later={"x": [1]}))
        with open(self.file, encoding="utf-8") as stream:
            before = stream.read()
        bundle.read(self.path).save_manifest()
        with open(self.file, encoding="utf-8") as stream:
            after = json.load(stream)
        self.assertEqual(json.dumps(after), json.dumps(json.loads(before)))

    def test_members_on_different_hosts(self):
        """What the writer makes of clocks that cannot be compared."""
        self.rewrite(lambda m: m["cut"].update(backoff_max_us=None, pairs=[], comparable=False))
        found = bundle.read(self.path)
        self.assertIsNone(found.backoff_max_ms())
        row = listing.summary(self.directory, "t1")
        self.assertEqual((row["status"], row["backoff_max_ms"]), ("complete", None))
        self.assertIn("TCP backoff unknown, 3 frames", listing.details(found))
        picture = os.path.join(self.directory, "t1.svg")
        timeline.draw(found, picture)
        with open(picture, encoding="utf-8") as stream:
            self.assertIn("unknown", stream.read())
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            listing.ls(types.SimpleNamespace(bundles=self.directory), False)
        self.assertRegex(printed.getvalue(), r"t1 .* 2\.4ms +- +3 ")

    def test_altered(self):
        cases = (
            (lambda m: m.update(format="zip"), "format"),
            (lambda m: m.update(version=3), "version 3"),
            (lambda m: m.update(version=2), "content"),
            (lambda m: m.pop("members"), "'members' is missing"),
            (lambda m: m["members"][1]["memory"].pop("sums_xxh3"),
             r"members\[1\]: memory: 'sums_xxh3' is missing"),
            (lambda m: m["members"][0]["pause"].update(end_ns="late"), "end_ns has the wrong type"),
            (lambda m: m["members"][0]["pause"].update(end_ns=True), "end_ns has the wrong type"),
            (lambda m: m.update(members={}), "members must be an array"),
        )
        with open(self.file, encoding="utf-8") as stream:
            whole = stream.read()
        for change, pattern in cases:
            with self.subTest(pattern):
                self.rewrite(change)
                self.refuse(pattern)
                with open(self.file, "w", encoding="utf-8") as stream:
                    stream.write(whole)
        bundle.read(self.path)

    def test_every_truncation_is_refused(self):
        with open(self.file, "rb") as stream:
            whole = stream.read().rstrip()
        for length in range(0, len(whole), 97):
            with open(self.file, "wb") as stream:
                stream.write(whole[:length])
            self.refuse("damaged")

    def test_missing(self):
        os.unlink(self.file)
        self.refuse("missing")
        with self.assertRaisesRegex(bundle.BundleError, "no bundle"):
            bundle.read(os.path.join(self.directory, "none"))

    def test_tags(self):
        for tag in ("a", "before-upgrade", "2026.11.20", "A_b"):
            bundle.check_tag(tag)
        for tag in ("", ".", "..", "a/b", "-x", "x.partial", "a" * 65, "a b"):
            with self.assertRaises(UsageError):
                bundle.check_tag(tag)

    def test_listing_tells_apart(self):
        os.mkdir(os.path.join(self.directory, "t2.partial"))
        os.mkdir(os.path.join(self.directory, "t3"))
        status = {name: listing.summary(self.directory, name)["status"]
                  for name in bundle.folders(self.directory)}
        self.assertEqual(status, {"t1": "complete", "t2.partial": "incomplete", "t3": "damaged"})
        with self.assertRaises(bundle.BundleError):
            bundle.complete(self.directory)

    def test_remove(self):
        bundle.remove(self.path)
        self.assertEqual(os.listdir(self.directory), [])

    def test_report_holds_the_figures(self):
        text = listing.details(bundle.read(self.path))
        for part in ("2.40 ms", "3.50 ms", "red-frame", "drain", "a - c"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main()
