# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's command: clusters of virtual machines, their snapshots and restores.

From below: `errors` and `record`; `host`, `formats` and `model`, which start nothing of QEMU; `ui`;
`qemu`, `disks` and `commands`; `cli`. Imports go downwards only (scripts/lib/checks/layers.py).
"""

__version__ = "0.1.0"
