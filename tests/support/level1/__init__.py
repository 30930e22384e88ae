# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines with hardware virtualization, emulated, for tests under KVM."""
