# SPDX-License-Identifier: GPL-2.0-or-later
"""The host: processes, network namespaces, durable files."""
