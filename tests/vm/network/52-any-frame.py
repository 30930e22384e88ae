#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1200
"""The cut is consistent for any frame that a guest sends, and not only for those with the NIC's own
address: guests as in network labs (support/labs.py).

The SNAPSHOT message to one member is held up, as in 50-coloring.py; the frames of the others must
make it take its cut. The control is the same without coloring: the checker must find orphans. The
bundle is restored: no message is missing, and none comes twice, as one would that was sent after
its sender's cut. The control is the restore of a bundle with orphans.
"""

import sys
from functools import partial

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cuts import colored, control, control_restored, restored, unharmed
from support.labs import DEFAULT, LABS, Lab
from support.outcome import Report
from support.tier import left_to_all
from support.workplace import Workplace


def prove(report: Report, lab: Lab) -> None:
    with Workplace() as place:
        cluster = report.run(f"{lab.name}-starts", partial(lab.start, place))
        if cluster is None:
            return
        for number, cut in enumerate(lab.cuts):
            name = f"{lab.name}-{cut.late}-late" + (f"-{number}" if number else "")
            meanwhile = partial(cut.meanwhile, cluster) if cut.meanwhile else None
            report.run(name, partial(colored, cluster, cut.late, f"on-{number}", meanwhile))
            report.run(f"{name}-control",
                       partial(control, cluster, cut.late, cut.sender, f"off-{number}"))
        report.run(f"{lab.name}-unharmed", partial(unharmed, cluster))
        # Whose address has moved starts last: others' frames must not go to its place of later.
        for number, cut in enumerate(lab.cuts):
            report.run(f"{lab.name}-restored-{number}",
                       partial(restored, cluster, f"on-{number}", cut.sender))
        report.run(f"{lab.name}-restored-control", partial(control_restored, cluster, "off-0"))


def chosen() -> list[str]:
    """The labs named on the command line, or those of the tier."""
    if names := sys.argv[1:]:
        return names
    others = [name for name in LABS if name not in DEFAULT]
    return list(DEFAULT) if left_to_all(f"the labs {', '.join(others)}") else list(LABS)


main = Report()
for chosen_name in chosen():
    prove(main, LABS[chosen_name])
main.exit()
