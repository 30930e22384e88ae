# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk layers: which are needed, and merging those that are not."""
