#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks, memory and whole members that change under a snapshot, and disks that are no plain files.

VMs of tests that need no guest stand still at their reset (-S).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.gate import Gate
from support.outcome import Failed, Report, Skipped, check, wait_until
from support.paths import PATIENCE, QEMU_IMG
from support.unharmed import SLOW, finish, is_whole, no_trace, works_on, writing_cluster
from support.vm import Vm
from support.workplace import Workplace, img_create
from hotsnap.formats import sums
from hotsnap.host import process
from hotsnap.qemu.qmp import Qmp, QmpClosed, QmpError

# The guest's way to power off: SLP_TYP and SLP_EN to the chipset.
POWER_OFF = {"command-line": "o /h 0x604 0x2000"}
WRITER = "hs.writer.mib=32 hs.writer.rate=500 hs.writer.disk=20"


def refuses(pattern: str, vm: Vm, command: str, arguments: dict) -> None:
    try:
        vm.qmp.execute(command, arguments)
    except QmpError as error:
        check(re.search(pattern, error.desc), f"{command}: {error.desc}")
    else:
        raise Failed(f"{command} was not refused")


# Changes while the snapshot is prepared: a is armed, and b has not got ARM.

def start(cluster: Cluster, way: Gate, tag: str) -> None:
    members = [cluster["a"].address, {"name": "b", "address": f"unix:{way.path}"}]
    a = cluster["a"].vm
    a.qmp.execute("hotsnap-cluster", {"job-id": tag, "tag": tag, "members": members,
                                      "directory": str(cluster.bundles)})
    a.reach("arm")


def blocked_commands(cluster: Cluster, way: Gate) -> None:
    """Commands that would change a snapshot's disks are refused, and the snapshot succeeds."""
    a = cluster["a"].vm
    start(cluster, way, "blocked")
    reason = "in a cluster snapshot that is in progress"
    refuses(reason, a, "blockdev-snapshot-sync",
            {"device": "root", "format": "qcow2",
             "snapshot-file": str(cluster.place.path / "a" / "other.qcow2")})
    refuses(reason, a, "block_resize", {"device": "hsdisktag", "size": 32 << 20})
    way.open()
    error = a.wait_job("blocked")
    check(error is None, f"error: {error}")
    manifest = json.loads((cluster.bundles / "blocked" / "manifest.json").read_text())
    files = [disk["file"] for disk in manifest["members"][0]["disks"]]
    check(files == [str(path) for _, path in cluster["a"].disks], f"{files}")
    # Allowed again after the snapshot.
    a.qmp.execute("block_resize", {"device": "hsdisktag", "size": 32 << 20})
    works_on(a)


def changed_disk(cluster: Cluster, way: Gate) -> None:
    """A change that no command refuses: the device is given another node."""
    a = cluster["a"].vm
    disk = next(d for d in a.qmp.execute("query-block") if d["device"] == "hsdisktag")
    node = disk["inserted"]["node-name"]
    path = disk["qdev"]
    a.qmp.execute("blockdev-add", {"driver": "throttle", "node-name": "between", "file": node,
                                   "throttle-group": "none"})
    start(cluster, way, "changed")
    a.qmp.execute("qom-set", {"path": path, "property": "drive", "value": "between"})
    way.open()
    error = a.wait_job("changed")
    check(error and "was changed while the snapshot was being prepared" in error, f"{error}")
    print(f"# {error}")
    check(a.running(), "a does not run")
    no_trace(cluster, "changed")
    works_on(a)
    a.qmp.execute("qom-set", {"path": path, "property": "drive", "value": node})
    a.qmp.execute("blockdev-del", {"node-name": "between"})


# Members that end.

def gone(cluster: Cluster, tag: str, end: tuple[str, dict], initiator: int = 0,
         promised: bool = False) -> None:
    """b ends while memory is copied: the result is as if there had been no snapshot."""
    a, b = cluster["a"].vm, cluster["b"].vm
    cluster.members[initiator].vm.qmp.execute("hotsnap-cluster",
                  {"job-id": tag, "tag": tag, "members": [m.address for m in cluster.members],
                   "directory": str(cluster.bundles), **SLOW})
    a.reach("full")
    b.reach("full")
    works_on(b)  # and writes to its overlay
    if promised:
        finish(cluster["b"], tag)
    try:
        b.qmp.execute(*end)
    except (QmpError, QmpClosed):
        pass  # it may be gone before it answers
    check(b.process.wait(PATIENCE) == 0, f"b: exit status {b.process.returncode}; "
                                   f"{b.messages.read_text()[-500:]}")
    if initiator == 0:
        error = a.wait_job(tag)
        check(error and "'b' was shut down during the snapshot" in error, f"{error}")
        print(f"# {error}")
    else:
        a.reach("aborted")
        print(f"# {a.qmp.execute('query-hotsnap').get('error')}")
    check(a.running(), "a does not run")
    no_trace(cluster, tag)
    works_on(a)
    check(not b.messages.read_text(), b.messages.read_text())
    is_whole(cluster["b"].disks[0][1])
    cluster["b"].start()
    cluster["b"].vm.wait_console(r"writer b pages=[1-9]")


def stays(cluster: Cluster) -> None:
    """With -no-shutdown QEMU lives on when the guest powers off, and so does the snapshot."""
    a, b = cluster["a"].vm, cluster["b"].vm
    b.qmp.execute("set-action", {"shutdown": "pause"})
    a.qmp.execute("hotsnap-cluster",
                  {"job-id": "stays", "tag": "stays", "directory": str(cluster.bundles),
                   "members": [m.address for m in cluster.members], **SLOW})
    a.reach("full")
    b.reach("full")
    b.qmp.execute("human-monitor-command", POWER_OFF)
    wait_until(lambda: not b.running(), "the guest does not power off")
    for vm in (a, b):
        vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
    error = a.wait_job("stays")
    check(error is None, f"error: {error}")
    check(b.qmp.execute("query-status")["status"] == "shutdown", "b is not where it was")


def clusters(report: Report) -> None:
    with Workplace() as place:
        cluster = writing_cluster(place, [
            ("a", "writer", {"append": WRITER, "disktag": True,
                             "args": ["-object", "throttle-group,id=none"]}),
            ("b", "writer", {"append": WRITER})])
        with Gate(cluster["b"].socket, place.path / "gate.sock", "ARM") as way:
            report.run("disk-changed-while-preparing", lambda: changed_disk(cluster, way))
        report.run("member-quits", lambda: gone(cluster, "quit", ("quit", {})))
        report.run("member-quits-after-its-promise",
                   lambda: gone(cluster, "late", ("quit", {}), promised=True))
        report.run("initiator-quits", lambda: gone(cluster, "lead", ("quit", {}), initiator=1))
        report.run("member-powers-off",
                   lambda: gone(cluster, "off", ("human-monitor-command", POWER_OFF)))
        with Gate(cluster["b"].socket, place.path / "gate.sock", "ARM") as way:
            report.run("disk-commands-blocked", lambda: blocked_commands(cluster, way))
        report.run("member-powers-off-and-stays", lambda: stays(cluster))


# VMs without a guest.

class Still:
    """One VM that stands at its reset, and snapshots of it."""

    def __init__(self, place: Workplace, args: list[str]):
        self.place, self.socket = place, place.path / "still.sock"
        self.bundles = place.path / "bundles"
        self.bundles.mkdir()
        self.args = ["-machine", "q35", "-accel", "tcg", "-S", *args,
                     "-object", f"hotsnap-member,id=hs0,name=still,listen=unix:{self.socket}"]

    def start(self) -> Vm:
        self.vm = Vm(self.place, "still", self.args)
        return self.vm

    def request(self, tag: str, **more) -> dict:
        return {"job-id": tag, "tag": tag, "directory": str(self.bundles),
                "members": [{"name": "still", "address": f"unix:{self.socket}"}], **more}

    def refused(self, pattern: str, **more) -> None:
        error = self.vm.job("hotsnap-cluster", self.request("refused", **more))
        check(error and re.search(pattern, error), f"error: {error}")
        print(f"# {error}")

    def disks(self, tag: str, **more) -> list[dict]:
        error = self.vm.job("hotsnap-cluster", self.request(tag, **more))
        check(error is None, f"snapshot {tag}: {error}")
        return self.manifest(tag)["members"][0]["disks"]

    def manifest(self, tag: str) -> dict:
        return json.loads((self.bundles / tag / "manifest.json").read_text())


def drive(file: object, image_format: str) -> list[str]:
    return ["-drive", f"if=none,id=d0,file={file},format={image_format}",
            "-device", "virtio-blk-pci,drive=d0,id=disk"]


class LoopDevice:
    def __init__(self, path: Path):
        done = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise Skipped(f"no loop device: {done.stderr.strip()}")
        self.name = done.stdout.strip()

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        subprocess.run(["losetup", "--detach", self.name], check=True)


def host_device() -> None:
    """No overlay is made in /dev, and the sums are those of the device's content."""
    size = 8 << 20
    with Workplace() as place:
        image = place.path / "image.raw"
        image.write_bytes(os.urandom(size))
        with LoopDevice(image) as device:
            link = place.path / "guest"  # a link, as in a volume group
            link.symlink_to(device)
            still = Still(place, drive(link, "raw"))
            still.start()
            still.refused(f"'disk' is the host's device '{link}'.*overlay-directory")
            check(not list(Path("/dev").glob("still-*")), "there is an overlay in /dev")
            [disk] = still.disks("t", **{"overlay-directory": str(place.path)})
            check(disk["file"] == str(link), disk["file"])
            found = sums.read(str(still.bundles / "t" / disk["sums"]), disk["sums_xxh3"])
            check(found.size == size, f"sums of {found.size} bytes")
            expected = list(sums.unit_sums(str(image), found.unit, 0, size // found.unit))
            check(list(found.sums) == expected, "the sums are not the image's")
            check(list(sums.unit_sums(device, found.unit, 0, size // found.unit)) == expected,
                  "the device's sums are not the image's")
            still.vm.kill()


def backing_of(overlay: str) -> str:
    done = subprocess.run([str(QEMU_IMG), "info", "-U", "--output=json", overlay],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["full-backing-filename"]


def relative_path() -> None:
    """The disk's name is relative to the folder QEMU was started in; the overlay lies elsewhere."""
    with Workplace() as place:
        image = img_create(place.path / "disk.qcow2", "8M")
        folder = place.path / "overlays"
        folder.mkdir()
        still = Still(place, drive(os.path.relpath(image), "qcow2"))
        still.start()
        [disk] = still.disks("t", **{"overlay-directory": str(folder)})
        check(disk["file"] == str(image), disk["file"])
        check(backing_of(disk["overlay"]) == str(image), backing_of(disk["overlay"]))


def daemonized() -> None:
    """The disk's name is relative to a folder that QEMU has left: QEMU cannot open it again."""
    with Workplace() as place:
        img_create(place.path / "disk.qcow2", "8M")
        still = Still(place, drive("disk.qcow2", "qcow2"))
        socket, pid_file = place.path / "qmp.sock", place.path / "pid"
        plain = Vm(place, "plain", ["-machine", "none"])  # for the arguments that all VMs have
        plain.kill()
        program = plain.args[:plain.args.index("-qmp")]
        subprocess.run([*program, *still.args, "-qmp", f"unix:{socket},server=on,wait=off",
                        "-daemonize", "-pidfile", str(pid_file)], cwd=place.path, check=True)
        qmp = Qmp.connect(socket, timeout=PATIENCE)
        try:
            plain.qmp, still.vm = qmp, plain
            still.refused("'disk.qcow2', which is relative.*use an absolute one")
        finally:
            qemu = process.identity(int(pid_file.read_text()))
            qmp.execute("quit")
            check(process.end(qemu, number=0, timeout=PATIENCE), "QEMU does not end")


def external_data() -> None:
    """No checksum would cover the file with the data."""
    with Workplace() as place:
        image = place.path / "disk.qcow2"
        subprocess.run([str(QEMU_IMG), "create", "-q", "-f", "qcow2", "-o",
                        f"data_file={place.path}/data.raw", str(image), "8M"], check=True)
        still = Still(place, drive(image, "qcow2"))
        still.start()
        still.refused("'disk' has its data in another file")


def memory_taken_away() -> None:
    """device_del comes before the snapshot, the guest agrees to it while memory is copied (here the
    monitor writes to the chipset in the guest's place), and then the backend is deleted."""
    with Workplace() as place:
        # Random data, so that the copy takes a minute.
        filler = place.path / "filler"
        filler.write_bytes(os.urandom(64 << 20))
        still = Still(place, ["-m", "256,slots=1,maxmem=1G",
                              "-device", f"loader,file={filler},addr=0x1000000,force-raw=on",
                              "-object", "memory-backend-ram,id=mem1,size=256M,prealloc=on",
                              "-device", "pc-dimm,id=dimm1,memdev=mem1"])
        vm = still.start()
        vm.qmp.execute("device_del", {"id": "dimm1"})
        vm.qmp.execute("hotsnap-cluster", still.request("t", **SLOW))
        vm.reach("full")
        vm.qmp.hmp("o /w 0xa00 0")
        vm.qmp.hmp("o /b 0xa14 8")
        check(not vm.qmp.execute("query-memory-devices"), "the memory device is still there")
        check(vm.qmp.execute("query-hotsnap")["phase"] == "full", "the copy was over too early")
        vm.qmp.execute("object-del", {"id": "mem1"})
        error = vm.wait_job("t")
        check(error and "Guest memory was taken away" in error, f"{error}")
        print(f"# {error}")
        check(not list(still.bundles.iterdir()), f"left: {list(still.bundles.iterdir())}")
        error = vm.job("hotsnap-cluster", still.request("again"))
        check(error is None, f"a second one: {error}")


def pinned_memory() -> None:
    """gdb makes the call by which VFIO and the like pin memory: this machine has no such device."""
    if not shutil.which("gdb"):
        raise Skipped("gdb is not there")
    with Workplace() as place:
        still = Still(place, ["-device", "virtio-balloon-pci"])
        vm = still.start()

        def discard_disable(state: int) -> None:
            done = subprocess.run(["gdb", "-p", str(vm.process.pid), "-batch", "-ex",
                                   f"print ((int (*)(_Bool))ram_block_discard_disable)({state})"],
                                  capture_output=True, text=True, check=False)
            if "$1 = 0" not in done.stdout:
                raise Skipped(f"gdb cannot: {done.stdout[-300:]}{done.stderr[-300:]}")

        still.disks("before")  # a balloon is no hindrance
        discard_disable(1)
        still.refused("memory is pinned")
        discard_disable(0)
        still.disks("after")


def memory_device() -> None:
    with Workplace() as place:
        still = Still(place, ["-m", "256,maxmem=1G", "-object",
                              "memory-backend-ram,id=mem1,size=256M",
                              "-device", "virtio-mem-pci,memdev=mem1"])
        still.start()
        still.refused("virtio-mem")


def hash_in_header() -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", {"nic": "virtio-net-pci,hash=on"})])
        cluster.up()
        error = cluster.try_snapshot("t")
        check(error and "hash=off" in error, f"error: {error}")
        print(f"# {error}")


main = Report()
main.run("disk-is-a-host-device", host_device)
main.run("disk-with-a-relative-path", relative_path)
main.run("disk-of-a-daemon", daemonized)
main.run("disk-with-external-data", external_data)
main.run("memory-taken-away", memory_taken_away)
main.run("refused-pinned-memory", pinned_memory)
main.run("refused-virtio-mem", memory_device)
main.run("refused-hash-in-header", hash_in_header)
clusters(main)
main.exit()
