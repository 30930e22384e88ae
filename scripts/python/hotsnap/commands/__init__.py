# SPDX-License-Identifier: GPL-2.0-or-later
"""What each command of the program does."""
