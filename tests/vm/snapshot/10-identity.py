#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Image identity: the image, completed while the guest went on writing, equals page for page a
plain dump made inside the same pause.

Tested for several kinds of guest memory, and with a negative control: without write traps the same
comparison must fail.
"""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.identity import identity, must_be_identical
from support.outcome import Report, check
from support.tier import left_to_all
from support.workplace import HugePages

KINDS = {
    "anonymous": {},
    "memfd": {"memory_args": ["-object", "memory-backend-memfd,id=ram,size=256M,share=on",
                              "-machine", "memory-backend=ram"]},
    "two-vcpus-numa": {"cpus": 2, "memory_args": [
        "-object", "memory-backend-ram,id=ram0,size=128M",
        "-object", "memory-backend-memfd,id=ram1,size=128M,share=on",
        "-numa", "node,memdev=ram0,cpus=0", "-numa", "node,memdev=ram1,cpus=1"]},
}
HUGE = {"memory_args": ["-object",
                        "memory-backend-memfd,id=ram,size=256M,share=on,hugetlb=on,hugetlbsize=2M",
                        "-machine", "memory-backend=ram"]}


def hugetlb() -> None:
    with HugePages(128 + 8):
        must_be_identical("hugetlb", HUGE)


def control() -> None:
    differing, _ = identity({}, engine="none")
    check(differing > 0, "without write traps the images are identical: the checker sees nothing")
    print(f"# without traps {differing} pages differ")


report = Report()
for name, extra in KINDS.items():
    if name != "memfd" or not left_to_all(name):
        report.run(f"identity-{name}", lambda: must_be_identical(name, extra))
report.run("identity-hugetlb", hugetlb)
report.run("identity-control-no-trap", control)
report.exit()
