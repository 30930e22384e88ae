# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/quickstart: shows HotSnap at work, and checks it."""
