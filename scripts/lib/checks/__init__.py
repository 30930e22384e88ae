# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/check: runs every test of the project and counts the results."""
