# SPDX-License-Identifier: GPL-2.0-or-later
"""Import, export and rebase of the fork, on a source tree of four files."""

import os
import shutil
import subprocess
import tempfile
import textwrap
import unittest

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))

PATCH = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: HotSnap <hotsnap@hotsnap.invalid>
Date: Fri, 20 Nov 2026 12:00:00 +0000
Subject: [PATCH] main: call the fork

Why: because main is where it starts.

diff --git a/main.c b/main.c
--- a/main.c
+++ b/main.c
@@ -3,6 +3,7 @@ line 2
 line 3
 line 4
 line 5
+fork();
 line 6
 line 7
 line 8
"""


@unittest.skipUnless(shutil.which("rsync") and shutil.which("git"), "needs git and rsync")
class Series(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.source, self.fork, self.tree = (os.path.join(self.folder, name)
                                             for name in ("source", "fork", "tree"))
        self.put("source/configure", "#!/bin/sh\n", mode=0o755)
        self.put("source/qapi/qapi-schema.json", "{}\n")
        self.put("source/main.c", "".join(f"line {n}\n" for n in range(1, 21)))
        self.put("source/other.c", "untouched\n")
        self.put("fork/overlay/fork/fork.c", "void fork(void);\n")
        self.put("fork/patches/series", "# order matters\n0001-main-call-the-fork.patch\n")
        self.put("fork/patches/0001-main-call-the-fork.patch", PATCH)

    def put(self, path, text, mode=0o644):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(path, mode)

    def text(self, path):
        with open(os.path.join(self.folder, path), encoding="utf-8") as stream:
            return stream.read()

    def script(self, name, *arguments, status=0):
        done = subprocess.run([os.path.join(CHECKOUT, "scripts", name), "--fork", self.fork,
                               *arguments], capture_output=True, text=True, check=False,
                              env={**os.environ, "HOTSNAP_LOCK_HELD": "1"})
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def import_tree(self, *more, status=0):
        return self.script("qemu-import", "--qemu-source", self.source, "--into", self.tree, *more,
                           status=status)

    def git(self, *arguments):
        return subprocess.run(
            ["git", "-c", "user.name=dev", "-c", "user.email=dev@hotsnap.invalid", "-C", self.tree,
             *arguments], capture_output=True, text=True, check=True).stdout

    def age(self):
        """Set the times of the tree's files back, and return a function that says which were
        written since."""
        paths = [os.path.join(self.tree, path) for path in self.git("ls-files").split()]
        for path in paths:
            os.utime(path, (1_000_000_000, 1_000_000_000))
        self.git("update-index", "-q", "--refresh")
        return lambda: sorted(os.path.relpath(path, self.tree) for path in paths
                              if not os.path.exists(path) or os.stat(path).st_mtime > 1_000_000_000)

    def test_import_gives_overlay_and_patches_as_commits(self):
        self.import_tree()
        self.assertIn("line 5\nfork();\nline 6\n", self.text("tree/main.c"))
        self.assertEqual(self.text("tree/fork/fork.c"), "void fork(void);\n")
        self.assertTrue(os.access(os.path.join(self.tree, "configure"), os.X_OK))
        self.assertEqual(self.git("log", "--format=%s").splitlines(),
                         ["main: call the fork", "overlay: the new files of the fork",
                          "base: source"])
        self.assertIn("Why: because", self.git("log", "-1", "--format=%b"))

    def test_import_without_series(self):
        self.import_tree("--no-series")
        self.assertEqual(self.text("tree/main.c"), self.text("source/main.c"))
        self.assertFalse(os.path.exists(os.path.join(self.tree, "fork")))

    def test_an_empty_fork_is_the_source(self):
        shutil.rmtree(self.fork)
        os.mkdir(self.fork)
        self.import_tree()
        self.assertEqual(self.text("tree/main.c"), self.text("source/main.c"))

    def test_again_writes_only_what_changed(self):
        self.import_tree()
        written = self.age()
        self.import_tree()
        self.assertEqual(written(), [])
        self.put("fork/overlay/fork/fork.c", "void fork(int);\n")
        self.import_tree()
        self.assertEqual(written(), ["fork/fork.c"])
        written = self.age()
        self.put("fork/patches/0001-main-call-the-fork.patch", PATCH.replace("fork();", "spoon();"))
        self.import_tree()
        self.assertEqual(written(), ["main.c"])
        self.put("fork/patches/series", "")
        written = self.age()
        self.import_tree()
        self.assertEqual(written(), ["main.c"])
        self.assertEqual(self.text("tree/main.c"), self.text("source/main.c"))

    def test_no_fuzz(self):
        self.import_tree()
        self.put("fork/patches/0001-main-call-the-fork.patch",
                 PATCH.replace(" line 7\n", " line seven\n"))
        self.assertIn("does not apply", self.import_tree(status=1))
        # and the tree is as it was
        self.assertIn("fork();", self.text("tree/main.c"))

    def test_an_offset_applies_and_is_reported(self):
        self.put("source/main.c", "line 0\n" * 5 + self.text("source/main.c"))
        self.assertIn("offset  0001-main-call-the-fork.patch: 1 hunks",
                      self.script("qemu-rebase", self.source))

    def test_rebase_names_the_patch_that_fails_and_goes_on(self):
        second = PATCH.replace("main.c", "other.c").replace("@@ -3,6 +3,7 @@", "@@ -1,1 +1,2 @@")
        second = second[:second.index(" line 3")] + " untouched\n+touched\n"
        self.put("fork/patches/0002-other.patch", second)
        self.put("fork/patches/series", "0001-main-call-the-fork.patch\n0002-other.patch\n")
        self.put("source/main.c", self.text("source/main.c").replace("line 5", "line five"))
        said = self.script("qemu-rebase", self.source, status=1)
        self.assertIn("FAILED  0001-main-call-the-fork.patch", said)
        self.assertIn("ok      0002-other.patch", said)

    def test_the_overlay_must_not_hide_a_file_of_qemu(self):
        self.put("fork/overlay/other.c", "mine\n")
        self.assertIn("exists in QEMU's source too", self.import_tree(status=1))

    def test_export_after_import_changes_nothing(self):
        self.import_tree()
        self.assertIn("nothing to export", self.script("qemu-export", "--from", self.tree, "--check"))
        self.script("qemu-export", "--from", self.tree)
        self.assertEqual(self.text("fork/patches/0001-main-call-the-fork.patch"), PATCH)
        self.assertEqual(self.text("fork/patches/series"),
                         "# order matters\n0001-main-call-the-fork.patch\n")

    def test_work_is_exported_and_imported_alike(self):
        self.import_tree()
        self.put("tree/fork/fork.c", "void fork(long);\n")
        self.put("tree/fork/new.c", "new\n")
        self.put("tree/other.c", "untouched\nno more\n")
        self.git("add", "fork/new.c")
        self.git("commit", "-q", "-m", "other: say more\n\nWhy: a test.", "--", "other.c")
        self.assertIn("not exported yet",
                      self.script("qemu-export", "--from", self.tree, "--check", status=1))
        self.script("qemu-export", "--from", self.tree)
        self.assertEqual(self.text("fork/overlay/fork/fork.c"), "void fork(long);\n")
        self.assertEqual(self.text("fork/overlay/fork/new.c"), "new\n")
        self.assertEqual(self.text("fork/patches/series").splitlines()[1:],
                         ["0001-main-call-the-fork.patch", "0002-other-say-more.patch"])
        self.assertIn("Why: a test.", self.text("fork/patches/0002-other-say-more.patch"))
        written = self.age()
        self.import_tree()
        self.assertEqual(written(), [])
        shutil.rmtree(self.tree)
        self.import_tree()
        self.assertEqual(self.text("tree/other.c"), "untouched\nno more\n")

    def test_a_removed_overlay_file_is_removed(self):
        self.put("fork/overlay/fork/second.c", "second\n")
        self.import_tree()
        os.remove(os.path.join(self.tree, "fork/second.c"))
        self.script("qemu-export", "--from", self.tree)
        self.assertFalse(os.path.exists(os.path.join(self.fork, "overlay/fork/second.c")))

    def test_work_is_not_lost(self):
        self.import_tree()
        self.put("tree/other.c", "my work\n")
        self.put("fork/overlay/fork/fork.c", "void fork(int);\n")
        self.import_tree()  # another file: both stay
        self.assertEqual(self.text("tree/other.c"), "my work\n")
        self.assertEqual(self.text("tree/fork/fork.c"), "void fork(int);\n")
        self.put("tree/fork/fork.c", "void fork(long);\n")
        self.put("fork/overlay/fork/fork.c", "void fork(short);\n")
        self.assertIn("not committed", self.import_tree(status=1))
        self.assertEqual(self.text("tree/fork/fork.c"), "void fork(long);\n")

    def test_export_refuses_an_uncommitted_change_to_qemu(self):
        self.import_tree()
        self.put("tree/other.c", "my work\n")
        self.assertIn("not committed", self.script("qemu-export", "--from", self.tree, status=1))

    def test_import_refuses_to_drop_commits(self):
        self.import_tree()
        self.put("tree/other.c", "my work\n")
        self.git("commit", "-q", "-a", "-m", "other: mine")
        self.put("fork/overlay/fork/fork.c", "void fork(int);\n")
        self.assertIn("not exported", self.import_tree(status=1))
        self.assertEqual(self.text("tree/other.c"), "my work\n")
        self.import_tree("--force")
        self.assertEqual(self.text("tree/other.c"), "untouched\n")

    def test_wrong_use_says_what_to_do(self):
        self.assertIn("no configure", self.script("qemu-import", "--qemu-source", self.fork, "--into",
                                                  self.tree, status=1))
        self.assertIn("neither a folder", self.script(
            "qemu-import", "--qemu-source", "nonsense", "--into", self.tree, status=1))


@unittest.skipUnless(shutil.which("dpkg"), "needs dpkg")
class Versions(unittest.TestCase):
    def shell(self, script):
        return subprocess.run(["bash", "-c", f"source {CHECKOUT}/scripts/lib/common.sh\n"
                               f"source {CHECKOUT}/scripts/lib/apt-source.sh\n{script}"],
                              capture_output=True, text=True, check=True).stdout

    def test_newest_first(self):
        said = self.shell("printf '%s\\n' 1:10.0.2+ds-1 1:10.0.13+ds-0 1:10.0.13+ds-0~bpo1 1:9.2 | "
                          "newest_first")
        self.assertEqual(said.split(), ["1:10.0.13+ds-0", "1:10.0.13+ds-0~bpo1", "1:10.0.2+ds-1",
                                        "1:9.2"])

    def versions(self, prefix):
        return self.shell(textwrap.dedent("""
            apt_prepare() { :; }
            apt-cache() { printf 'Version: %s\\n' 1:10.0.2+ds-2 1:10.0.20+ds-1 1:10.0.13+ds-0 1:10.1.0; }
            """) + f"apt_source_versions qemu {prefix} && echo \"$REPLY\" || true").split()

    def test_a_prefix_of_versions(self):
        self.assertEqual(self.versions("10.0."), ["1:10.0.20+ds-1", "1:10.0.13+ds-0", "1:10.0.2+ds-2"])
        self.assertEqual(self.versions("10.0.2"), ["1:10.0.2+ds-2"])
        self.assertEqual(self.versions("9."), [])


if __name__ == "__main__":
    unittest.main()
