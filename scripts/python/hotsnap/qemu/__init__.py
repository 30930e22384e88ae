# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU: its command line, its processes, QMP and jobs."""
