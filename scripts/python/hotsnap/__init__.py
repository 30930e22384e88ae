# SPDX-License-Identifier: GPL-2.0-or-later
"""What HotSnap's scripts share: QMP, networks, and offline readers of snapshots."""
