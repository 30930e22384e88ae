# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench: measures HotSnap on this machine."""
