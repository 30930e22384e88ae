# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands print and draw."""
