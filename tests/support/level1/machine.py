# SPDX-License-Identifier: GPL-2.0-or-later
"""A level-1 machine: a computer with hardware virtualization, emulated, for tests under KVM.

QEMU's TCG emulates AMD's SVM with nested paging, so that KVM works in the machine on any host.
The machine runs the QEMU under test with level-2 guests, by a plan made before it starts: one after
the other, or some at once. QMP and the guests' consoles lead out through virtio ports, one pair for
each guest that runs at the same time. Files are read from the machine's disk once it has powered
off.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

from hotsnap.qemu.qmp import Qmp, QmpClosed, QmpError, QmpTimeout

from ..outcome import Failed, Skipped, check
from ..paths import FIRMWARE, GUEST, PATIENCE, QEMU, QEMU_IMG
from ..vm import Vm
from ..workplace import Workplace, img_create

HERE = Path(__file__).resolve().parent
ROMS = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"]
LEVEL1_DISK_MIB = 4096  # sparse
LEVEL2_DISK_MIB = 48    # the writer's file has 32
HUGE_PAGES = 24         # of 2 MiB, for guests
BOOT_TIMEOUT = 300
BUNDLES = "/bundles"
PROGRAMS = ["hs-writer", "hs-chatter"]  # of the test guests, for level 2


@dataclass
class Level2:
    """A level-2 guest of the plan; `args` are its QEMU's own arguments. With `restore_of` it is
    that guest's member again, and waits to be restored on an overlay over that guest's disk."""

    name: str
    cpus: int = 1
    memory_mib: int = 160
    buffer_mib: int = 32  # of each vCPU's writer
    args: list[str] = field(default_factory=list)
    restore_of: str = ""
    append: str = ""        # to the kernel's command line
    port: int = 0           # of QMP and console: guests that run at once need different ones
    killed: bool = False    # its QEMU gets SIGKILL (Guest.kill_hard) instead of being told to quit
    disk_device: str = "virtio-blk-pci"
    # The drivers it needs that are not virtio's; only Debian's full kernel has them.
    drivers: list[str] = field(default_factory=list)

    @property
    def member(self) -> str:
        return self.restore_of or self.name

    @property
    def address(self) -> dict[str, str]:
        return {"name": self.member, "address": f"unix:/run/{self.name}.sock"}

    @property
    def flavor(self) -> str:
        return "-generic" if self.drivers else ""

    @property
    def initrd(self) -> str:
        return f"initrd{self.flavor}.img"

    @property
    def disk(self) -> str:
        return f"{self.name}.qcow2" if self.restore_of else f"{self.name}.raw"

    def make_disk(self, folder: Path) -> None:
        if self.restore_of:
            # Relative to the overlay, so that the name is right both here and in the machine.
            img_create(folder / self.disk, backing=Path(f"{self.restore_of}.raw"))
        else:
            make_ext4(folder / self.disk, LEVEL2_DISK_MIB, "load")

    @property
    def parameters(self) -> str:
        """The guest's own part of its kernel's command line."""
        drivers = f"hs.drivers={','.join(self.drivers)}" if self.drivers else ""
        return f"hs.mib={self.buffer_mib} {drivers} {self.append}"

    def command(self) -> str:
        return shlex.join([
            "killed" if self.killed else "run", self.name, *FIRMWARE,
            "-display", "none", "-nodefaults", "-no-reboot",
            "-chardev", f"pipe,id=qmp,path=/dev/level2-qmp-{self.port}",
            "-mon", "chardev=qmp,mode=control",
            "-serial", f"file:/dev/level2-console-{self.port}",
            "-machine", "pc", "-accel", "kvm", "-cpu", "qemu64",
            "-smp", str(self.cpus), "-m", str(self.memory_mib), *self.args,
            "-kernel", f"/level2/vmlinuz{self.flavor}", "-initrd", f"/level2/{self.initrd}",
            "-append", f"console=ttyS0 quiet mitigations=off panic=-1 {self.parameters}",
            "-drive", f"if=none,id=load,file=/level2/{self.disk},"
                      f"format={self.disk.rpartition('.')[2]},cache=none,aio=native",
            "-device", f"{self.disk_device},drive=load",
            "-object", f"hotsnap-member,id=hs0,name={self.member},"
                       f"listen={self.address['address']}",
            *(["-incoming", "defer", "-S"] if self.restore_of else [])])


@dataclass
class DebianLevel2(Level2):
    """A level-2 guest that boots the test guests' Debian userland (tests/guest). Its disk is an
    overlay on their root disk, which is the machine's second disk (Level1._debian_disk)."""

    role: str = "idle"

    initrd = "initrd-debian.img"

    @property
    def disk(self) -> str:
        return f"{self.name}.qcow2"

    @property
    def parameters(self) -> str:
        # With init_on_alloc the kernel would write to each page of its cache before a disk does.
        return f"no_timer_check init_on_alloc=0 hs.name={self.name} hs.role={self.role} {self.append}"

    def make_disk(self, folder: Path) -> None:
        # The backing file's name is right only in the machine, so qemu-img cannot read its size.
        size = (GUEST / "rootfs.raw").stat().st_size
        subprocess.run([str(QEMU_IMG), "create", "-q", "-f", "qcow2", "-u", "-F", "qcow2",
                        "-b", "/dev/vdb", str(folder / self.disk), str(size)], check=True)


class Guest(Vm):
    """A running level-2 guest, with the interface of other tests' VMs. Its process is that of the
    level-1 machine."""

    # pylint: disable=super-init-not-called
    def __init__(self, machine: Level1, plan: Level2):
        self.machine, self.plan, self.name = machine, plan, plan.name
        self.process, self.messages = machine.vm.process, machine.vm.console
        self.console_from = len(machine.level2_text(plan.port))
        try:
            self.qmp = Qmp(machine.sockets[plan.port].dup(), timeout=PATIENCE)
        except (QmpClosed, QmpTimeout) as error:
            raise Failed(f"{self.name}'s QEMU did not start: "
                         f"{machine.vm.text()[-500:]!r}") from error

    def ended(self) -> bool:
        return super().ended() or bool(
            re.search(rf"level1: end {self.name}\b", self.machine.vm.text()))

    def text(self) -> str:
        return self.machine.level2_text(self.plan.port)[self.console_from:]

    def snapshot(self, tag: str, meanwhile: Callable[[], None] = lambda: None,
                 **arguments: object) -> None:
        self.qmp.execute("hotsnap-cluster", {
            "job-id": f"snap-{tag}", "tag": tag, "directory": BUNDLES,
            "members": [self.plan.address], **arguments})
        meanwhile()
        error = self.wait_job(f"snap-{tag}")
        check(error is None, f"snapshot {tag}: {error}")
        check(self.running(), f"{self.name} does not run after the snapshot")

    def kill_hard(self) -> None:
        """Sends SIGKILL to its QEMU, in the machine; for a guest that is planned as killed."""
        # The machine's init waits for this file, which this command makes QEMU create.
        self.qmp.execute("pmemsave", {"val": 0, "size": 1, "filename": f"/run/kill-{self.name}"})
        self.machine.wait(rf"end {self.name}\b")

    def restore(self, tag: str, **arguments: object) -> None:
        error = self.job("hotsnap-restore", {"job-id": f"restore-{tag}",
                                             "bundle": f"{BUNDLES}/{tag}",
                                             "members": [self.plan.address], **arguments})
        check(error is None, f"restore {tag}: {error}")
        check(self.running(), f"{self.name} does not run after the restore")


@dataclass
class Program:
    """A statically linked program of the tests, run as a line of the plan. It has succeeded when it
    exits with 0; `Level1.output_of()` returns its output."""

    name: str
    path: Path
    arguments: list[str] = field(default_factory=list)

    def command(self) -> str:
        return shlex.join(["check", self.name, f"/usr/bin/{self.path.name}", *self.arguments])


@dataclass
class Modules:
    """A line of the plan that loads KVM's modules anew, with other parameters."""

    name: str
    kvm: str = ""
    kvm_amd: str = ""

    def command(self) -> str:
        return shlex.join(["modules", self.name, self.kvm, self.kvm_amd])


class Level1:
    """The machine, from the start of its boot on. Its kernel is from Debian's `suite`; `modules`
    holds modules that replace the kernel's own. A list in the plan holds guests that run at
    once."""

    def __init__(self, place: Workplace, name: str, suite: str,
                 plan: list[Level2 | Program | Modules | list[Level2]], modules: Path | None = None,
                 memory_mib: int = 1024):
        self.place, self.name, self.groups = place, name, plan
        self.plan = [entry for group in plan
                     for entry in (group if isinstance(group, list) else [group])]
        self.kernel = kernel_of(suite)
        self.modules = modules
        self.folder = place.path / name
        self.folder.mkdir()
        self.disk = self.folder / "disk.raw"
        self._make_disk()
        ports = range(1 + max(e.port for e in [*self.plan, Level2("")] if isinstance(e, Level2)))
        qmp = [self.folder / f"level2-qmp-{port}.sock" for port in ports]
        self.consoles = [self.folder / f"level2-{port}.log" for port in ports]
        self._boot(qmp, [
            "-machine", "q35", "-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-smp", "2",
            "-m", str(memory_mib), "-no-reboot",
            "-kernel", str(self.kernel / "vmlinuz"), "-initrd", str(self.kernel / "initrd.img"),
            "-append", "console=ttyS0 quiet mitigations=off no_timer_check panic=-1 "
                       # The host may stand still for a while: no fault of this kernel.
                       "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 "
                       f"hugepages={HUGE_PAGES}",
            "-drive", f"if=none,id=root,file={self.disk},format=raw,cache=unsafe",
            "-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci",
            *self._debian_disk(),
            "-device", "virtio-serial-pci",
            *(word for port in ports for word in [
                "-chardev", f"socket,id=qmp{port},path={qmp[port]},server=on,wait=off",
                "-device", f"virtserialport,chardev=qmp{port},name=level2-qmp-{port}",
                "-chardev", f"file,id=console{port},path={self.consoles[port]}",
                "-device", f"virtserialport,chardev=console{port},name=level2-console-{port}"])])

    def _boot(self, qmp: list[Path], arguments: list[str]) -> None:
        """Boots up to the machine's init, in three attempts at most: QEMU's TCG with two processors
        ends now and then in the first seconds of a kernel (seen once in some twenty boots)."""
        for last in (False, False, True):
            self.vm = Vm(self.place, self.name, arguments)
            # One connection for all guests of a port: if its far end were closed, the port would be
            # at end of file in the machine.
            self.sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in qmp]
            for connection, path in zip(self.sockets, qmp):
                connection.connect(str(path))
            try:
                self.vm.wait_console("level1: ", timeout=BOOT_TIMEOUT)
                return
            except Failed as error:
                if last or not self.vm.ended():
                    raise
                print(f"# while it booted, {error}; {self.vm.text()[-200:]!r}", flush=True)
            for connection in self.sockets:
                connection.close()

    def level2_text(self, port: int) -> str:
        return self.consoles[port].read_text(errors="replace")

    def wait(self, pattern: str) -> str:
        found = self.vm.wait_console(rf"level1: (?:{pattern}|fail .*|done)", BOOT_TIMEOUT)[0]
        check("level1: fail" not in found and "level1: done" not in found,
              f"{self.name}: {self.vm.text()[-500:]!r}")
        return found

    @contextmanager
    def guest(self, name: str) -> Iterator[Guest]:
        """Waits for the guest's turn in the plan; its QEMU ends with the block."""
        plan = next(p for p in self.plan if isinstance(p, Level2) and p.name == name)
        self.wait(rf"start {name}\b")
        guest = Guest(self, plan)
        try:
            yield guest
        except BaseException:
            if guest.ended():
                # "quit" would reach the next guest's QEMU.
                print(f"# {name}'s QEMU had ended; its console: {guest.text()[-500:]!r}", flush=True)
                raise
            # The first error counts, not an end of QEMU that it may have caused.
            with suppress(Failed, QmpError, QmpClosed, QmpTimeout):
                self._quit(guest)
            raise
        self._quit(guest)

    def _quit(self, guest: Guest) -> None:
        if guest.plan.killed:
            return
        guest.qmp.execute("quit")
        guest.qmp.wait_event("SHUTDOWN", timeout=60)
        self.wait(rf"end {guest.name}\b")

    def power_off(self) -> None:
        """Waits until the plan is done and the machine is off; ends the machine in any case."""
        try:
            self.vm.wait_console("level1: done", timeout=120)
            self.vm.process.wait(60)
            ends = re.findall(r"level1: end (\S+) status=(\d+)", self.vm.text())
            check(sorted(ends) == sorted((entry.name, "0") for entry in self.plan),
                  f"the plan ended as {ends}")
            complaints = re.findall(r"level1: complaint (.*)", self.vm.text())
            check(not complaints, f"the machine's kernel complains: {complaints[:3]}")
        finally:
            self.vm.kill()
            for connection in self.sockets:
                connection.close()

    def output_of(self, program: str) -> str:
        """The output of a program of the plan so far."""
        begun = self.vm.text().partition(f"level1: start {program}")[2]
        return begun.partition(f"level1: end {program}")[0].replace("\r", "")

    def take_out_folder(self, folder: str, to: Path) -> Path:
        """Copies a folder out of the disk, into `to`, when the machine has powered off."""
        to.mkdir(exist_ok=True)
        subprocess.run(["debugfs", "-R", f"rdump {folder} {to}", str(self.disk)], check=True,
                       capture_output=True)
        return to / Path(folder).name

    def take_out(self, file: str, to: Path) -> Path:
        """Copies a file out of the disk, when the machine has powered off."""
        subprocess.run(["debugfs", "-R", f"dump {file} {to}", str(self.disk)], check=True,
                       capture_output=True)
        check(to.exists() and to.stat().st_size > 0, f"{self.name} has no {file} on its disk")
        return to

    # --- its disks and kernels ---

    def _make_disk(self) -> None:
        tree = self.folder / "tree"
        shutil.copytree(self.kernel / "root", tree, symlinks=True)
        for name in ("proc", "sys", "dev", "run", "tmp", BUNDLES[1:], "level2", "usr/bin",
                     "usr/lib/hotsnap"):
            (tree / name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / "init", tree / "usr/lib/hotsnap/init")
        add_qemu(tree)
        self._add_level2(tree / "level2")
        for entry in self.plan:
            if isinstance(entry, Program):
                shutil.copy2(entry.path, tree / "usr/bin")
            elif isinstance(entry, Level2):
                entry.make_disk(tree / "level2")
        for module in self.modules.glob("*.ko") if self.modules else []:
            for standard in (tree / "lib/modules").glob(f"*/{module.name}"):
                shutil.copy2(module, standard)
        (tree / "plan").write_text("\n".join(
            "".join(f"{guest.command()} &\n" for guest in group) + "wait"
            if isinstance(group, list) else group.command() for group in self.groups) + "\n")
        make_ext4(self.disk, LEVEL1_DISK_MIB, "HSROOT", tree)
        shutil.rmtree(tree)

    def _debian_disk(self) -> list[str]:
        """The test guests' root disk, if a guest wants it. It is qcow2 to the machine, too, which
        must not see a second file system with its own label."""
        if not any(isinstance(entry, DebianLevel2) for entry in self.plan):
            return []
        disk = self.folder / "debian.qcow2"
        subprocess.run([str(QEMU_IMG), "convert", "-f", "raw", "-O", "qcow2",
                        str(GUEST / "rootfs.raw"), str(disk)], check=True)
        return ["-drive", f"if=none,id=debian,file={disk},format=raw,readonly=on",
                "-device", "virtio-blk-pci,drive=debian"]

    def _add_level2(self, to: Path) -> None:
        flavors = {entry.flavor for entry in self.plan if isinstance(entry, Level2)}
        for flavor in flavors:
            if not (GUEST / f"vmlinuz{flavor}").exists():
                raise Skipped(f"there is no kernel vmlinuz{flavor} for a level-2 guest; "
                              "scripts/guest-image --generic makes it")
            shutil.copy(GUEST / f"vmlinuz{flavor}", to)
            shutil.copy(GUEST / f"initrd{flavor}.img", to)
        if any(isinstance(entry, DebianLevel2) for entry in self.plan):
            shutil.copy(GUEST / "initrd.img", to / DebianLevel2.initrd)
        overlay = self.folder / "level2-overlay"
        (overlay / "bin").mkdir(parents=True)
        shutil.copy2(HERE / "level2-init", overlay / "init")
        for program in PROGRAMS:
            shutil.copy2(GUEST / "programs" / program, overlay / "bin")
        # The kernel unpacks one archive after the other; the later file wins.
        for flavor in flavors:
            with open(to / f"initrd{flavor}.img", "ab") as archive:
                subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=overlay,
                               stdout=archive, check=True,
                               input="\n".join(["init", *(f"bin/{p}" for p in PROGRAMS)]).encode())


def kernel_of(suite: str) -> Path:
    """The folder with the suite's kernel; its making needs Debian's archive."""
    made = subprocess.run([str(HERE / "kernel"), suite], capture_output=True, text=True)
    if made.returncode == 77:
        raise Skipped(made.stderr.strip().splitlines()[-1])
    check(made.returncode == 0, f"no kernel for the machine: {made.stderr.strip()[-500:]!r}")
    return Path(made.stdout.strip())


def add_qemu(tree: Path) -> None:
    """Adds the QEMU under test with its libraries and firmware, each at its place."""
    listed = subprocess.run(["ldd", str(QEMU)], capture_output=True, text=True, check=True).stdout
    roms = [Path(folder) / rom for folder in FIRMWARE[1::2] for rom in ROMS]
    for file in [*(word for word in listed.split() if word.startswith("/")),
                 *(rom for rom in roms if rom.exists())]:
        target = tree / str(file)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    subprocess.run(["strip", "-o", str(tree / "usr/bin/qemu-system-x86_64"), str(QEMU)],
                   check=True)


def make_ext4(image: Path, size_mib: int, label: str, tree: Path | None = None) -> None:
    with open(image, "wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", label,
                    "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
                    *(["-d", str(tree)] if tree else []), str(image)], check=True)
