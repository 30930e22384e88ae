# SPDX-License-Identifier: GPL-2.0-or-later
"""Second stores of snapshots of disks, which 'hotsnap ship' fills."""
