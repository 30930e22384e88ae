# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster file, the state of its members, and bundles."""
