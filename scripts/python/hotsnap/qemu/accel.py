# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether KVM really runs a guest here.

/dev/kvm may open and be of no use: inside some virtual machines it belongs to a KVM without
hardware support, which would need hours to boot a kernel. The probe therefore runs a guest: a
firmware of a few bytes, which counts down from 20 million and then writes a letter to a debug port.
Hardware does this in about 10 ms, TCG in a fifth of a second; a KVM that emulates does not finish
in the time allowed. The answer is kept until the next boot.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass

from ..errors import HotsnapError
from ..host import process
from ..host.atomic import write_json
from . import binaries, launch

LOOPS = 20_000_000
TIMEOUT = 3.0
DEBUG_PORT = 0x402
BIOS_SIZE = 65536
CACHE = os.path.join(
    os.path.join(binaries.CHECKOUT, "build") if binaries.CHECKOUT else os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "hotsnap"),
    "kvm-probe.json")


@dataclass(frozen=True)
class Probe:
    kvm: bool
    reason: str  # why, or why not
    seconds: float


def probe_firmware() -> bytes:
    """A 64 KiB BIOS for real mode, entered at its last 16 bytes."""
    code = (b"\xfa"                                     # cli
            + b"\x66\xb9" + LOOPS.to_bytes(4, "little")  # mov ecx, LOOPS
            + b"\x66\x49\x75\xfc"                       # 1: dec ecx; jnz 1b
            + b"\xba" + DEBUG_PORT.to_bytes(2, "little")  # mov dx, DEBUG_PORT
            + b"\xb0K\xee"                              # mov al, 'K'; out dx, al
            + b"\xf4\xeb\xfd")                          # 2: hlt; jmp 2b
    image = bytearray(BIOS_SIZE)
    image[:len(code)] = code
    image[-16:-11] = b"\xea\x00\x00\x00\xf0"            # jmp far f000:0000
    return bytes(image)


def run_probe(qemu: str, accelerator: str = "kvm", timeout: float = TIMEOUT) -> Probe:
    """Runs the probe's guest with an accelerator; the cache is not used."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hotsnap-probe.") as folder:
        bios, output = os.path.join(folder, "bios"), os.path.join(folder, "out")
        with open(bios, "wb") as stream:
            stream.write(probe_firmware())
        command = [qemu, "-accel", accelerator, "-machine", "pc", "-m", "16", "-bios", bios,
                   *binaries.firmware_arguments(), "-display", "none", "-nodefaults",
                   "-no-user-config", "-chardev", f"file,id=out,path={output}",
                   "-device", f"isa-debugcon,iobase={DEBUG_PORT:#x},chardev=out"]
        log = os.path.join(folder, "log")
        child = launch.start(command, log)
        try:
            while True:
                elapsed = time.monotonic() - began
                if os.path.exists(output) and os.path.getsize(output):
                    return Probe(True, f"the probe's guest ran in {elapsed:.2f} s", elapsed)
                if child.poll() is not None:
                    said = process.tail(log, 1) or "nothing"
                    return Probe(False, f"QEMU ended and said: {said}", elapsed)
                if elapsed > timeout:
                    return Probe(False, f"the probe's guest did not finish in {timeout:g} s",
                                 elapsed)
                time.sleep(0.005)
        finally:
            child.kill()
            child.wait()


def kvm_works(qemu: str) -> Probe:
    """The probe's answer for this boot and this QEMU."""
    if not os.path.exists("/dev/kvm"):
        return Probe(False, "there is no /dev/kvm", 0.0)
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        key = {"boot": stream.read().strip(), "qemu": qemu, "built": os.stat(qemu).st_mtime_ns}
    try:
        with open(CACHE, encoding="utf-8") as stream:
            cached = json.load(stream)
        if cached["key"] == key:
            return Probe(**cached["probe"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is no answer yet, or it cannot be read: ask again
    probe = run_probe(qemu)
    try:
        os.makedirs(os.path.dirname(CACHE), exist_ok=True)
        write_json(CACHE, {"key": key, "probe": asdict(probe)})
    except OSError:
        pass  # the answer cannot be kept: the next command asks again
    return probe


def choose(qemu: str, wanted: str) -> str:
    """The accelerator to start members with: "kvm" or "tcg"."""
    if wanted == "tcg":
        return "tcg"
    probe = kvm_works(qemu)
    if wanted == "kvm" and not probe.kvm:
        raise HotsnapError(f"KVM does not run guests here: {probe.reason}; use accel = \"auto\"")
    return "kvm" if probe.kvm else "tcg"
