# SPDX-License-Identifier: GPL-2.0-or-later
"""Where QEMU, its tools and the firmware are."""

from __future__ import annotations

import os
import shutil
import subprocess

from ..errors import HotsnapError
from ..host.atomic import whole

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = "qemu-system-x86_64"
FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios")
UEFI = (("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"))  # before Debian 11


def _checkout() -> str:
    root = os.path.dirname(os.path.dirname(os.path.dirname(PACKAGE)))
    return root if os.path.exists(os.path.join(root, "scripts", "build")) else ""


CHECKOUT = _checkout()  # empty if this package is installed


def _prefix() -> str | None:
    """The prefix that this package is installed in: the nearest folder with bin/hotsnap."""
    folder = PACKAGE
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        if os.path.exists(os.path.join(folder, "bin", "hotsnap")):
            return folder
    return None


def beside_installation() -> str | None:
    """Where an installed hotsnap looks for its QEMU; None in a checkout."""
    prefix = None if CHECKOUT else _prefix()
    return prefix and os.path.join(prefix, "libexec", "hotsnap", PROGRAM)


def qemu(configured: str | None = None) -> str:
    """HotSnap's QEMU: what $HOTSNAP_QEMU names, else what the cluster file names, else the one
    beside the installation, else the one that the checkout has built."""
    for named, by in ((os.environ.get("HOTSNAP_QEMU"), "HOTSNAP_QEMU"),
                      (configured, "the cluster file")):
        if named:
            if not os.access(named, os.X_OK):
                raise HotsnapError(f"no QEMU at {named}, which {by} names: name HotSnap's "
                                   f"{PROGRAM}; 'scripts/build qemu' in a checkout builds it")
            return os.path.abspath(named)
    if CHECKOUT:
        path = os.path.join(CHECKOUT, "build", "qemu", PROGRAM)
        if not os.access(path, os.X_OK):
            raise HotsnapError(f"no QEMU at {path}: run 'scripts/build qemu', or set HOTSNAP_QEMU")
        return path
    beside = beside_installation()
    if beside and os.access(beside, os.X_OK):
        return beside
    place = os.path.dirname(beside or "") or "PREFIX/libexec/hotsnap"
    raise HotsnapError("no QEMU of HotSnap: build it in a checkout with 'scripts/build qemu'; then "
                       f"set HOTSNAP_QEMU to its build/qemu/{PROGRAM}, or copy that, qemu-img and "
                       f"storage-daemon/qemu-storage-daemon to {place}")


def qemu_img(configured: str | None = None) -> str:
    """The one beside QEMU, else the system's."""
    return _tool(configured, "qemu-img")


def storage_daemon(configured: str | None = None) -> str:
    """The one beside QEMU, also in the folder where a build of QEMU leaves it; else the system's."""
    name = "qemu-storage-daemon"
    return _tool(configured, name, os.path.join("storage-daemon", name))


def _tool(configured: str | None, *names: str) -> str:
    folder = os.path.dirname(qemu(configured))
    for name in names:
        beside = os.path.join(folder, name)
        if os.access(beside, os.X_OK):
            return beside
    found = shutil.which(names[0])
    if not found:
        raise HotsnapError(f"no {names[0]} beside QEMU ({os.path.join(folder, names[0])}): run "
                           "'scripts/build qemu', or install the package qemu-utils")
    return found


def firmware_arguments() -> list[str]:
    """-L for each folder that Debian's packages put firmware in."""
    if not os.path.exists(os.path.join(FIRMWARE[1], "bios-256k.bin")):
        raise HotsnapError("no SeaBIOS: run 'apt-get install seabios qemu-system-data'")
    return [argument for folder in FIRMWARE for argument in ("-L", folder)]


def uefi() -> tuple[str, str]:
    """UEFI's code, and the file that its variables start as."""
    for code, variables in UEFI:
        if os.path.exists(code) and os.path.exists(variables):
            return code, variables
    raise HotsnapError("no UEFI firmware: run 'apt-get install ovmf'")


def run_img(image_tool: str, *arguments: str) -> str:
    """Run qemu-img; HotsnapError with what it said when it fails."""
    done = subprocess.run([image_tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HotsnapError(f"qemu-img {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def create_overlay(image_tool: str, path: str, backing: str, backing_format: str) -> None:
    with whole(path) as new:
        _create(image_tool, "-F", backing_format, "-b", backing, new)


def create_empty(image_tool: str, path: str, size: int) -> None:
    with whole(path) as new:
        _create(image_tool, new, str(size))


def create_copy(image_tool: str, path: str, image: str, image_format: str) -> None:
    with whole(path) as new:
        run_img(image_tool, "convert", "-q", "-f", image_format, "-O", "qcow2", image, new)


def _create(image_tool: str, *arguments: str) -> None:
    run_img(image_tool, "create", "-q", "-f", "qcow2", *arguments)
