# SPDX-License-Identifier: GPL-2.0-or-later
"""File formats of bundles that other programs read as well."""
