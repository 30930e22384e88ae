#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The traps of 10-traps.py on Intel's path: kvm-intel with VMX and EPT, in Bochs, which emulates a
computer that has them, with two processors.

The cost of the patched modules for a VM without traps is measured beside that of Debian's own
modules, in emulated time, which counts instructions.

Bochs needs minutes for all of that, so the default tier runs only the cases on Intel's own paths:
EPT violations, the emulator, their controls. The cost of the traps is measured in tier "all".

The processor is a Haswell, since later models of Bochs 2.7 have PML, with which KVM's dirty logging
misses pages there, also with Debian's own modules. Arming's cost is not measured: that takes more
memory and time.
"""

# timeout: 2500

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.machine import kernel_of
from support.outcome import Report, check
from support.patched import SUITE, modules
from support.paths import BUILD
from support.tier import left_to_all
from support.workplace import Workplace

TRAP_TEST = BUILD / "host" / "tests" / "kvm" / "kvm-trap-test"
RESULT = re.compile(r"^(?:ok |not ok |skip |#).*$", re.MULTILINE)
TIMEOUT = 2400

# The cases of the default tier.
CHOSEN = ["trap-guest-writes", "trap-guest-writes-with-neighbors", "trap-reads", "trap-huge-pages",
          "trap-emulated-write-to-two-pages",
          "control-no-kvm-trap-emulated-write-to-two-pages", "trap-system-time",
          "control-no-kvm-trap-system-time", "trap-full-ring", "control-no-guest-trap",
          "control-no-kvm-trap", "trap-disarmed"]
INIT = """#!/bin/sh
PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
dmesg -c >/dev/null # the emulator's own
busybox insmod /modules/irqbypass.ko
for kvm in stock patched; do
    [ $kvm = stock ] || busybox rmmod kvm-intel kvm
    busybox insmod /modules/$kvm/kvm.ko
    busybox insmod /modules/$kvm/kvm-intel.ko
    echo "# $kvm KVM"
    @UNUSED@
done
echo "intel: kvm $(uname -r) ept=$(cat /sys/module/kvm_intel/parameters/ept)"
kvm-trap-test @CASES@
echo "intel: end status=$?"
dmesg | grep -E 'WARNING: |BUG: |Oops|rcu: .*stall|possible .* deadlock' |
    sed 's/^/intel: complaint /'
sleep 5 # the serial line is slow
echo "intel: done"
sleep 5
poweroff -f
"""
BOCHSRC = """config_interface: textconfig
display_library: term
plugin_ctrl: unmapped=1, biosdev=1
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_haswell_4770, count=2, ips=100000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
clock: sync=none
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=console
log: log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""
ISOLINUX = """DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL vmlinuz
  INITRD initrd.img
  APPEND console=ttyS0 quiet mitigations=off no_timer_check panic=-1
"""


def init_script() -> str:
    unused, cases = "kvm-trap-test --unused", "--without trap-cost-of-arming"
    if left_to_all(f"costs, and all but {len(CHOSEN)} cases"):
        unused, cases = "true", " ".join(f"--only {name}" for name in CHOSEN)
    return INIT.replace("@UNUSED@", unused).replace("@CASES@", cases)


def make_initrd(folder: Path, to: Path) -> None:
    kernel = kernel_of(SUITE)
    tree = folder / "tree"
    for name in ("bin", "proc", "sys", "dev", "tmp", "modules"):
        (tree / name).mkdir(parents=True)
    for file in (kernel / "root" / "bin").iterdir():
        subprocess.run(["cp", "-a", str(file), str(tree / "bin")], check=True)
    subprocess.run(["cp", str(TRAP_TEST), str(tree / "bin")], check=True)
    stock = next((kernel / "root" / "lib" / "modules").iterdir())
    subprocess.run(["cp", str(stock / "irqbypass.ko"), str(tree / "modules")], check=True)
    for name, folder_of in (("stock", stock), ("patched", modules())):
        (tree / "modules" / name).mkdir()
        for module in ("kvm.ko", "kvm-intel.ko"):
            subprocess.run(["cp", str(folder_of / module), str(tree / "modules" / name)],
                           check=True)
    (tree / "init").write_text(init_script())
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in tree.rglob("*"))
    with open(to, "wb") as archive:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, stdout=archive,
                       input=names.encode(), check=True)


def make_iso(folder: Path) -> None:
    iso = folder / "iso"
    iso.mkdir()
    make_initrd(folder, iso / "initrd.img")
    subprocess.run(["cp", str(kernel_of(SUITE) / "vmlinuz"), "/usr/lib/ISOLINUX/isolinux.bin",
                    "/usr/lib/syslinux/modules/bios/ldlinux.c32", str(iso)], check=True)
    (iso / "isolinux.cfg").write_text(ISOLINUX)
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", str(folder / "boot.iso"),
                    "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot",
                    "-boot-load-size", "4", "-boot-info-table", str(iso)], check=True)


def console_of(folder: Path) -> str:
    """Runs Bochs until the machine says that it is done; returns the machine's console output."""
    (folder / "bochsrc").write_text(BOCHSRC)
    (folder / "continue").write_text("c\n")  # Debian's Bochs starts in its debugger
    console = folder / "console"
    # Its only display that needs no X is a terminal, which has to be read.
    terminal, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 140, 0, 0))
    os.set_blocking(terminal, False)
    bochs = subprocess.Popen(["bochs-bin", "-q", "-f", "bochsrc", "-rc", "continue"], cwd=folder,
                             stdin=inner, stdout=inner, stderr=inner,
                             env={**os.environ, "TERM": "vt100"})
    os.close(inner)
    deadline = time.monotonic() + TIMEOUT
    text = ""
    try:
        while "intel: done" not in text and bochs.poll() is None:
            check(time.monotonic() < deadline, f"Bochs is not done: {text[-500:]!r}")
            time.sleep(0.2)
            with suppress(OSError):  # nothing to read, or the far end is closed
                while os.read(terminal, 65536):
                    pass
            text = console.read_text(errors="replace") if console.exists() else ""
    finally:
        bochs.kill()  # it holds nothing that would be lost
        bochs.wait()
        os.close(terminal)
    return console.read_text(errors="replace").replace("\r", "") if console.exists() else ""


def run(report: Report) -> None:
    with Workplace() as place:
        make_iso(place.path)
        text = console_of(place.path)
        version = re.search(r"^intel: kvm .*", text, re.MULTILINE)
        check(version is not None, f"the machine did not come up: {text[-500:]!r}")
        print(f"# {version[0]}")
        results = [re.sub(r"^(ok|not ok|skip) ", r"\1 intel-", line)
                   for line in RESULT.findall(text)]
        print("\n".join(results), flush=True)
        report.failed += sum(line.startswith("not ok") for line in results)
        report.run("intel-ept", lambda: check("ept=Y" in version[0], "KVM uses no EPT"))
        report.run("intel-traps-all-ran", lambda: check(
            "# all cases ran" in text and "intel: done" in text,
            f"the tests broke off: {text[-300:]!r}"))
        report.run("intel-kernel-log-is-clean", lambda: check(
            "intel: complaint" not in text, text[text.find("intel: complaint"):][:500]))


if not Path("/usr/bin/bochs-bin").exists():
    print("skip intel-traps - Bochs is not installed (packages bochs, bochs-term)")
    raise SystemExit(0)
main = Report()
run(main)
main.exit()
