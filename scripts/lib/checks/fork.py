# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups about QEMU: the patch series, and QEMU's own qtests on the fork."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from . import formats
from .context import ALL, CannotRun, Context, Reader, output_of, read_text
from .results import FAILED, PASSED, Result

# "" is the newest 10.0.x that can be had; the other is the version that bookworm-backports froze.
VERSIONS = ("", "10.0.2")
REBASE_TIMEOUT = 600.0

# checkpatch wants MAINTAINERS changed with every new file; a fork has none to add.
EXPECTED = ("does MAINTAINERS need updating?",)
CHECKPATCH_FAULT = re.compile(r"^(ERROR|WARNING): (.*)$", re.MULTILINE)
PLANTED_PATCH = """From: planted
Subject: [PATCH] planted fault

diff --git a/util/planted.c b/util/planted.c
--- a/util/planted.c
+++ b/util/planted.c
@@ -1,2 +1,3 @@
 int a;
+\tif( a ){ return 1; }
 int b;
"""


@dataclass(frozen=True)
class Qtest:
    """A test program of QEMU's, and the seconds it may take. `chosen` are the paths of its tests
    that the default tier runs; without any it runs all."""

    name: str
    timeout: float
    chosen: tuple[str, ...] = ()


# On 2 cores migration-test needs up to 8 minutes under TCG, the others less than half a minute. The
# fork shares code with mapped-ram to a file, and with postcopy's userfaultfd.
QTESTS = (
    Qtest("migration-test", 2400, (
        "/x86_64/migration/multifd/file/mapped-ram/dio", "/x86_64/migration/postcopy/plain")),
    Qtest("qom-test", 600),
    Qtest("qmp-cmd-test", 300),
    Qtest("test-hmp", 300),
    Qtest("test-netfilter", 120),
    Qtest("test-filter-mirror", 120),
)


def read_rebase(program: str, text: str) -> list[Result]:
    """The lines of scripts/qemu-rebase: one for each patch."""
    results = []
    for line in text.splitlines():
        match = re.match(r"(ok|offset|FAILED) +([^\s:]+)(?:: (.*))?$", line)
        if match:
            outcome = FAILED if match[1] == "FAILED" else PASSED
            reason = "does not apply: see the log" if outcome == FAILED else match[3] or ""
            results.append(Result(program, match[2], outcome, reason))
        elif line.startswith("series on "):
            results.append(Result(program, f"overlay over {line[10:].rstrip(':')}", PASSED))
    return results


def checkpatch_faults(tree: str, patch: str) -> list[str]:
    """The complaints of QEMU's checkpatch.pl about a patch, given as text."""
    status, text = output_of("perl", "scripts/checkpatch.pl", "--no-signoff", "-", cwd=tree,
                             data=patch)
    found = [f"{level}: {what}" for level, what in CHECKPATCH_FAULT.findall(text)
             if not what.endswith(EXPECTED)]
    if status != 0 and not found:
        found = [f"checkpatch.pl ended with status {status}: {text.strip()[-200:]}"]
    return found


def patches(context: Context) -> None:
    context.script("qemu-import")
    for version in VERSIONS:
        program = f"series-on-{version or 'newest'}"
        context.run(program, [context.path("scripts", "qemu-rebase"), *([version] if version else [])],
                    REBASE_TIMEOUT, read_rebase, skip_reason="the mirror no longer has that version")
    tree = os.path.join(context.build, "qemu-src")
    if not os.path.exists(os.path.join(tree, "scripts", "checkpatch.pl")):
        context.skip("checkpatch", "all", "this source of QEMU has no scripts/checkpatch.pl")
        return
    context.check("checkpatch", "sees a planted fault",
                  lambda: "" if checkpatch_faults(tree, PLANTED_PATCH) else "it reported nothing")
    folder = context.path("qemu", "patches")
    names = [line for line in read_text(os.path.join(folder, "series")).split("\n")
             if line and not line.startswith("#")]
    status, overlay = output_of("git", "-c", f"safe.directory={tree}", "diff", "refs/hotsnap/base",
                                "refs/hotsnap/overlay", cwd=tree)
    if status != 0:
        raise CannotRun(f"git diff in build/qemu-src: {overlay[:200]}")
    for name, text in [(name, read_text(os.path.join(folder, name))) for name in names] + [
            ("overlay", overlay)]:
        def complaint(text: str = text) -> str:
            found = checkpatch_faults(tree, text)
            for fault in found[:10]:
                print(f"  | {fault}", file=sys.stderr)
            return f"{len(found)} complaints, first: {found[0]}" if found else ""
        context.check("checkpatch", name, complaint)


def qtest(context: Context) -> None:
    context.script("build", "qemu", "qtests")
    build = os.path.join(context.build, "qemu")
    hidden = without_useless_kvm(context, os.path.join(build, "qemu-system-x86_64"))
    # libqtest's sockets and images go where TMPDIR says; socket paths must be short.
    scratch = context.scratch.enter_context(
        tempfile.TemporaryDirectory(prefix="hotsnap-qtest."))
    env = {"QTEST_QEMU_BINARY": "./qemu-system-x86_64", "QTEST_QEMU_IMG": "./qemu-img",
           "PYTHON": "/usr/bin/python3", "TMPDIR": scratch, "MALLOC_PERTURB_": "137"}
    for test in QTESTS:
        paths: tuple[str, ...] = ()
        if test.chosen and context.tier != ALL:
            paths = test.chosen
            context.leave(f"{test.name} but for {len(paths)} of its tests")
        context.run(test.name, [*hidden, f"tests/qtest/{test.name}", "--tap", "-k",
                                *(word for path in paths for word in ("-p", path))],
                    test.timeout, chosen_reader(paths), env=env, cwd=build)


def chosen_reader(paths: Sequence[str]) -> Reader:
    """Reads TAP. A chosen test that QEMU no longer has would be left out without a word."""
    def read(program: str, text: str) -> list[Result]:
        results = formats.read_tap(program, text)
        for path in paths:
            if not any(result.name == path for result in results):
                results.append(Result(program, path, FAILED, "it is not among the results: has "
                                      "it another name now? see QTESTS in checks/fork.py"))
        return results
    return read


def without_useless_kvm(context: Context, qemu: str) -> list[str]:
    """A command prefix under which there is no KVM, if KVM here cannot run guests in any useful
    time: migration-test would pick it because /dev/kvm opens."""
    sys.path.insert(0, context.path("scripts", "python"))
    from hotsnap.qemu.accel import kvm_works  # pylint: disable=import-outside-toplevel
    probe = kvm_works(qemu)
    if probe.kvm or not os.path.exists("/dev/kvm"):
        return []
    context.report.say(f"   qtests use TCG: {probe.reason}")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c",
            'mount --bind /dev/null /dev/kvm && exec "$@"', "sh"]
