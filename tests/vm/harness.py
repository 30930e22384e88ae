# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VM tests share: guests under QEMU, clusters of them, and the lines a test prints.

A test is a program that prints `ok NAME`, `not ok NAME - reason` or `skip NAME - reason` for each
thing it checks, and exits. Everything it makes lies in a temporary directory and a network
namespace of its own; both, and all QEMUs, are gone when it ends, also by a signal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from hotsnap.netns import Network, tap_netdev  # noqa: E402
from hotsnap.qmp import Qmp, QmpError  # noqa: E402

BUILD = Path(os.environ.get("HOTSNAP_BUILD", ROOT / "build"))
QEMU = Path(os.environ.get("HOTSNAP_QEMU", BUILD / "qemu" / "qemu-system-x86_64"))
QEMU_IMG = Path(os.environ.get("HOTSNAP_QEMU_IMG", BUILD / "qemu" / "qemu-img"))
STOCK = Path(os.environ.get("HOTSNAP_STOCK_QEMU", BUILD / "qemu-stock" / "qemu-system-x86_64"))
GUEST = BUILD / "guest"
FIRMWARE = ["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]
# Seconds for what must come but may come late: the machine is also others'.
PATIENCE = 120.0


class Failed(Exception):
    """A check did not hold."""


def check(condition: Any, message: str) -> None:
    if not condition:
        raise Failed(message)


def wait_until(condition: Callable[[], Any], otherwise: str | Callable[[], str],
               timeout: float = PATIENCE, interval: float = 0.1) -> Any:
    """What `condition` gives once that is true; fails with `otherwise` if it stays false."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Failed(otherwise() if callable(otherwise) else otherwise)
        time.sleep(interval)
    return value


class Skipped(Exception):
    """What the test needs is not there; the text says what."""


class Report:
    """Runs checks and prints their lines."""

    def __init__(self) -> None:
        self.failed = 0

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            result = function()
        except Skipped as reason:
            print(f"skip {name} - {reason}", flush=True)
            return None
        except (Failed, QmpError) as error:
            self.failed += 1
            print(f"not ok {name} - {error}", flush=True)
            return None
        except Exception as error:  # noqa: BLE001: any other exception fails this check alone
            self.failed += 1
            traceback.print_exc()
            print(f"not ok {name} - {type(error).__name__}: {error}", flush=True)
            return None
        print(f"ok {name} # {time.monotonic() - started:.1f} s", flush=True)
        return result

    def exit(self) -> None:
        sys.exit(1 if self.failed else 0)


class Workplace:
    """A temporary directory, and what must end with the test."""

    def __init__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))
        self.path = Path(tempfile.mkdtemp(prefix="hotsnap-test-", dir=BUILD))
        self.vms: list[Vm] = []
        self.networks: list[Network] = []

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        for vm in self.vms:
            vm.kill()
        for network in self.networks:
            network.destroy()
        if os.environ.get("HOTSNAP_KEEP"):
            print(f"# kept {self.path}", flush=True)
        else:
            shutil.rmtree(self.path, ignore_errors=True)

    def network(self, taps: list[str]) -> Network:
        network = Network(f"hs-test-{os.getpid()}-{len(self.networks)}", taps)
        network.create()
        for tap in taps:  # a guest may stand still for seconds, and no frame is to be lost
            subprocess.run(["ip", "-n", network.name, "link", "set", tap, "txqueuelen", "20000"],
                           check=True)
        self.networks.append(network)
        return network


class HugePages:
    """Reserves 2 MiB pages for the test alone, or says why it cannot."""

    SETTING = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")

    def __init__(self, count: int):
        self.count = count

    def __enter__(self) -> HugePages:
        try:
            self.before = int(self.SETTING.read_text())
            self.SETTING.write_text(str(self.before + self.count))
        except OSError as error:
            raise Skipped(f"huge pages cannot be reserved: {error}") from error
        if int(self.SETTING.read_text()) < self.before + self.count:
            self.__exit__()
            raise Skipped(f"the kernel has no {self.count} huge pages of 2 MiB free")
        return self

    def __exit__(self, *_: object) -> None:
        self.SETTING.write_text(str(self.before))


def img_create(path: Path, size: str = "", backing: Path | None = None,
               backing_format: str = "raw", image_format: str = "qcow2") -> Path:
    command = [str(QEMU_IMG), "create", "-q", "-f", image_format]
    if backing:
        command += ["-F", backing_format, "-b", str(backing)]
    subprocess.run([*command, str(path), *([size] if size else [])], check=True)
    return path


class Vm:
    """One QEMU process. `args` are QEMU's; QMP and the console are added."""

    def __init__(self, place: Workplace, name: str, args: list[str], *, qemu: Path | None = None,
                 network: Network | None = None):
        self.place, self.name = place, name
        self.directory = place.path / name
        self.directory.mkdir(exist_ok=True)
        serial = 0
        while (self.directory / f"console-{serial}.log").exists():
            serial += 1
        self.console = self.directory / f"console-{serial}.log"
        self.messages = self.directory / f"qemu-{serial}.log"
        self.progress: list[tuple[int, int]] = []
        socket = self.directory / "qmp.sock"
        socket.unlink(missing_ok=True)
        self.args = [str(qemu or QEMU), *FIRMWARE, "-display", "none", "-nodefaults",
                     "-name", f"guest={name},debug-threads=on",
                     "-qmp", f"unix:{socket},server=on,wait=off",
                     "-serial", f"file:{self.console}", *args]
        command = network.inside(self.args) if network else self.args
        with open(self.messages, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL)
        place.vms.append(self)
        try:
            self.qmp = Qmp.connect(socket, timeout=PATIENCE,
                                   alive=lambda: not self.ended())
        except Exception as error:
            self.process.poll()
            raise Failed(f"QEMU did not start: {self.messages.read_text().strip()}") from error

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def text(self) -> str:
        return self.console.read_text(errors="replace")

    def wait_console(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            ended = self.ended()  # before its last words are read
            match = re.search(pattern, self.text())
            check(match or not ended,
                  f"{self.name}: QEMU ended: {self.messages.read_text().strip()[-500:]}")
            return match

        return wait_until(found, lambda: f"{self.name}: '{pattern}' did not appear on the console "
                          f"in {timeout:.0f} s; last lines: {self.text()[-500:]!r}", timeout)

    def lines_after(self, offset: int) -> str:
        return self.text()[offset:]

    def phase(self) -> str:
        return self.qmp.execute("query-hotsnap")["phase"]

    def reach(self, *phases: str) -> None:
        wait_until(lambda: self.phase() in phases,
                   lambda: f"{self.name}: phase {self.phase()} instead of {' or '.join(phases)}",
                   interval=0.01)

    def running(self) -> bool:
        return not self.ended() and self.qmp.execute("query-status")["status"] == "running"

    def threads(self) -> list[tuple[int, str]]:
        """Of QEMU: thread ids and names."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(ProcessLookupError, FileNotFoundError):  # it has ended
                found.append((int(task.name), (task / "comm").read_text().strip()))
        return found

    def real_time_threads(self) -> list[str]:
        """Names of the threads that have a real-time priority; none has but around a cut."""
        names = []
        for tid, name in self.threads():
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK:
                    names.append(name)
        return sorted(names)

    def job(self, command: str, arguments: dict[str, Any], timeout: float = 300) -> str | None:
        """Runs a job to its end; returns its error, or None."""
        identity = arguments["job-id"]
        self.qmp.execute(command, arguments)
        return self.wait_job(identity, timeout)

    def wait_job(self, identity: str, timeout: float = 300) -> str | None:
        """Its error, or None; `progress` is then what it said of its progress, as (done, total)."""
        deadline = time.monotonic() + timeout
        self.progress = []
        while time.monotonic() < deadline:
            job = next(j for j in self.qmp.execute("query-jobs") if j["id"] == identity)
            self.progress.append((job["current-progress"], job["total-progress"]))
            if job["status"] == "concluded":
                self.qmp.execute("job-dismiss", {"id": identity})
                return job.get("error")
            time.sleep(0.05)
        raise Failed(f"job {identity} did not end: {job}")

    def phases(self, tag: str, timeout: float = PATIENCE) -> list[str]:
        """The phases that HOTSNAP_PHASE told of snapshot `tag`, up to its end; a restore's tag is
        empty."""
        found: list[str] = []
        while not found or found[-1] not in ("committed", "aborted", "in-doubt", "restored"):
            event = self.qmp.wait_event("HOTSNAP_PHASE", timeout, {"tag": tag})
            found.append(event["data"]["phase"])
        return found


class Member:
    """One member of a test cluster: how to start it, and the VM while it runs."""

    def __init__(self, cluster: Cluster, index: int, name: str, role: str, options: dict[str, Any]):
        self.cluster, self.index, self.name, self.role = cluster, index, name, role
        self.options = options
        self.ip = f"10.77.0.{index + 1}"
        self.mac = f"52:54:00:77:00:{index + 1:02x}"
        self.tap = f"tap{index}"
        # QEMU runs in the cluster's own network namespace: all ports are free there.
        self.tcp = f"tcp:127.0.0.1:{7000 + index}" if options.get("tcp") else None
        self.socket = cluster.place.path / f"{name}.sock"
        self.vm: Vm | None = None
        self.disks: list[tuple[str, Path]] = []
        self.restored_disks: list[tuple[str, Path]] = []

    @property
    def address(self) -> dict[str, str]:
        return {"name": self.name, "address": self.tcp or f"unix:{self.socket}"}

    def make_disks(self) -> None:
        directory = self.cluster.place.path / self.name
        directory.mkdir(exist_ok=True)
        # A golden image is a link; an overlay must name what the link leads to now.
        self.disks = [("root", img_create(directory / "root.qcow2",
                                          backing=(GUEST / "rootfs.raw").resolve()))]
        if "db" in self.role:
            self.disks.append(("pgdata", img_create(directory / "pgdata.qcow2",
                                                    backing=(GUEST / "pgdata.raw").resolve())))
        if self.options.get("disktag"):
            self.disks.append(("hsdisktag", img_create(directory / "tag.raw", "16M",
                                                       image_format="raw")))

    def disk_args(self, disks: list[tuple[str, Path]]) -> list[str]:
        args: list[str] = []
        for index, (serial, path) in enumerate(disks):
            device = self.options.get("disk_device", "virtio-blk-pci").format(index=index)
            image_format = "raw" if path.suffix == ".raw" else "qcow2"
            cache = self.options.get("cache", "none")
            aio = "native" if cache == "none" else "threads"
            args += ["-drive", f"if=none,id={serial},file={path},format={image_format},"
                               f"cache={cache},aio={aio}",
                     "-device", f"{device},drive={serial},serial={serial}"]
        return args

    def start(self, disks: list[tuple[str, Path]] | None = None,
              extra: list[str] | None = None) -> Vm:
        o = self.options
        peers = ",".join(f"{m.name}:{m.ip}" for m in self.cluster.members if m is not self)
        append = (f"console=ttyS0 quiet mitigations=off no_timer_check hs.name={self.name} "
                  f"hs.ip={self.ip}/24 hs.role={self.role} "
                  f"{f'hs.peers={peers}' if peers else ''} {o.get('append', '')}")
        memory = o.get("memory", 256)
        args = ["-machine", o.get("machine", "q35"), "-accel", "tcg", "-cpu", "max",
                "-smp", str(o.get("cpus", 1)), "-m", str(memory),
                *o.get("memory_args", []),
                "-kernel", str(GUEST / o.get("kernel", "vmlinuz")),
                "-initrd", str(GUEST / o.get("initrd", "initrd.img")), "-append", append,
                "-object", f"hotsnap-member,id=hs0,name={self.name},listen={self.address['address']}",
                "-netdev", tap_netdev("net0", self.tap),
                "-device", f"{o.get('nic', 'virtio-net-pci')},netdev=net0,mac={self.mac},romfile=",
                *([] if o.get("no_mediator") else
                  ["-object", "filter-hotsnap,id=med0,netdev=net0,member=hs0"]),
                "-device", "virtio-rng-pci",
                *o.get("before_disks", []), *self.disk_args(disks or self.disks),
                *o.get("args", []), *(extra or [])]
        self.vm = Vm(self.cluster.place, self.name, args, network=self.cluster.network)
        return self.vm


class Cluster:
    """Members on one bridge: [(name, role, options)]."""

    def __init__(self, place: Workplace, members: list[tuple[str, str, dict[str, Any]]]):
        self.place = place
        self.network = place.network([f"tap{i}" for i in range(len(members))])
        self.members: list[Member] = []
        for index, (name, role, options) in enumerate(members):
            self.members.append(Member(self, index, name, role, options))
        for member in self.members:
            member.make_disks()
        self.bundles = place.path / "bundles"
        self.bundles.mkdir(exist_ok=True)

    def __getitem__(self, name: str) -> Member:
        return next(m for m in self.members if m.name == name)

    def up(self, timeout: float = 180) -> None:
        for member in self.members:
            member.start()
        for member in self.members:
            member.vm.wait_console(rf"hotsnap-guest: ready {member.name}\b", timeout)

    def snapshot(self, tag: str, initiator: int = 0, timeout: float = 300,
                 **arguments: Any) -> dict[str, Any]:
        """Takes a snapshot; returns the manifest."""
        error = self.try_snapshot(tag, initiator, timeout, **arguments)
        check(error is None, f"snapshot {tag}: {error}")
        return json.loads((self.bundles / tag / "manifest.json").read_text())

    def begin_snapshot(self, tag: str, initiator: int = 0, **arguments: Any) -> None:
        """Starts job snap-TAG."""
        request = {"job-id": f"snap-{tag}", "tag": tag, "directory": str(self.bundles),
                   "members": [m.address for m in self.members]}
        request.update({key.replace("_", "-"): value for key, value in arguments.items()})
        self.members[initiator].vm.qmp.execute("hotsnap-cluster", request)

    def try_snapshot(self, tag: str, initiator: int = 0, timeout: float = 300,
                     **arguments: Any) -> str | None:
        self.begin_snapshot(tag, initiator, **arguments)
        return self.members[initiator].vm.wait_job(f"snap-{tag}", timeout)

    def kill(self) -> None:
        for member in self.members:
            if member.vm:
                member.vm.kill()

    def start_for_restore(self, tag: str) -> None:
        """All members on fresh overlays, waiting for hotsnap-restore."""
        manifest = json.loads((self.bundles / tag / "manifest.json").read_text())
        for member in self.members:
            report = next(m for m in manifest["members"] if m["name"] == member.name)
            disks = []
            for disk in report["disks"]:
                count = len(list((self.place.path / member.name).glob("restored-*")))
                path = self.place.path / member.name / f"restored-{count}.qcow2"
                disks.append((disk["device"], img_create(path, backing=Path(disk["file"]),
                                                         backing_format=disk["format"])))
            member.restored_disks = disks
            member.start(disks, ["-incoming", "defer", "-S"])

    def begin_restore(self, tag: str, initiator: int = 0, **arguments: Any) -> None:
        """Starts job restore-TAG."""
        self.members[initiator].vm.qmp.execute("hotsnap-restore", {
            "job-id": f"restore-{tag}", "bundle": str(self.bundles / tag),
            "members": [m.address for m in self.members], **arguments})

    def restore(self, tag: str, initiator: int = 0, timeout: float = 300) -> None:
        self.start_for_restore(tag)
        self.begin_restore(tag, initiator)
        error = self.members[initiator].vm.wait_job(f"restore-{tag}", timeout)
        check(error is None, f"restore {tag}: {error}")
