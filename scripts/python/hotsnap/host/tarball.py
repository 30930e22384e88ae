# SPDX-License-Identifier: GPL-2.0-or-later
"""Many files as one: a tar file that zstd compresses, made and read by these programs.

zstd's checksum is of all of it, so that no byte of the file can change unseen. Holes stay holes. A
file is read as one that a stranger may have made: only the names that the caller expects are
unpacked, each once, none of them larger than he says; what is no plain file is refused.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from ..errors import HotsnapError
from . import process

SUFFIX = ".tar.zst"
CHUNK = 1 << 20
_PACK = ("tar", "--create", "--file=-", "--format=posix", "--sparse", "--dereference",
         "--hard-dereference", "--no-recursion", "--numeric-owner", "--owner=0", "--group=0",
         "--mode=u=rw,go=", "--pax-option=delete=atime,delete=ctime", "--null",
         "--verbatim-files-from")
_UNPACK = ("tar", "--extract", "--file=-", "--no-same-owner", "--no-same-permissions",
           "--keep-old-files", "--no-recursion", "--no-wildcards", "--null", "--verbatim-files-from")

Tell = Callable[[int], None]  # how many more bytes have gone through


class Unreadable(HotsnapError):
    """A file that is no such archive, was cut short, or has changed since it was made."""


def check_programs() -> None:
    for program in ("tar", "zstd"):
        if not shutil.which(program):
            raise HotsnapError(f"the program {program} is missing: run 'apt-get install {program}'")


def pack(files: Mapping[str, str], path: str, keep: Sequence[int] = (), tell: Tell | None = None
         ) -> None:
    """Writes `path`, which is not durable yet: for each name in it the file that is read. The
    programs inherit the handles in `keep`."""
    with tempfile.TemporaryDirectory(prefix="hotsnap-pack.") as staging, \
            tempfile.TemporaryFile() as said:
        for name, source in files.items():
            link = os.path.join(staging, name)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.abspath(source), link)
        names = os.path.join(staging, ".names")
        _list(names, files)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as made, _children() as start:
            tar = start([*_PACK, f"--directory={staging}", f"--files-from={names}"], keep,
                        subprocess.DEVNULL, subprocess.PIPE, said)
            zstd = start(["zstd", "--quiet", "--threads=0", "--stdout"], keep, subprocess.PIPE,
                         made, said)
            _pump(tar, zstd, tell)
            if _failed(tar, zstd):
                raise HotsnapError(f"{path} could not be written: {_words(said)}")


def peek(path: str, name: str, limit: int) -> bytes:
    """The contents of one file of an archive, which is near its beginning. Unreadable if it is
    not there, or has more than `limit` bytes."""
    with tempfile.TemporaryFile() as said, open(path, "rb") as source, _children() as start:
        zstd = start(["zstd", "--quiet", "--decompress", "--stdout"], (), source,
                     subprocess.PIPE, said)
        tar = start(["tar", "--extract", "--file=-", "--to-stdout", "--occurrence=1",
                     "--no-wildcards", name], (), zstd.stdout, subprocess.PIPE, said)
        assert zstd.stdout and tar.stdout
        zstd.stdout.close()  # tar alone reads it, and zstd ends with tar
        found = tar.stdout.read(limit + 1)
        if len(found) > limit or not found or tar.wait():
            raise Unreadable(f"{path} has no {name} at its beginning: {_words(said)}")
        return found


def unpack(path: str, folder: str, sizes: Mapping[str, int], tell: Tell | None = None) -> None:
    """Unpacks these files into an empty folder. Unreadable if one is missing, is no plain file, or
    has another size; the folder then holds anything."""
    with tempfile.TemporaryFile() as said, open(path, "rb") as source, _children() as start, \
            tempfile.TemporaryDirectory(prefix="hotsnap-unpack.") as scratch:
        names = os.path.join(scratch, "names")
        _list(names, sizes)
        zstd = start(["zstd", "--quiet", "--decompress", "--stdout"], (), source,
                     subprocess.PIPE, said)
        # A file that grows beyond what was said ends tar.
        tar = start(["prlimit", f"--fsize={max(sizes.values(), default=0)}", *_UNPACK,
                     f"--directory={os.path.abspath(folder)}", f"--files-from={names}"], (),
                    subprocess.PIPE, subprocess.DEVNULL, said)
        _pump(zstd, tar, tell)
        if _failed(zstd, tar):
            what = ("a file in it is larger than it says" if tar.returncode == -signal.SIGXFSZ
                    else _words(said))
            raise Unreadable(f"{path} could not be unpacked: {what}: get the file again if it is "
                             "damaged, or make room for it")
    for name, size in sizes.items():
        _check(path, os.path.join(folder, name), name, size)


def _check(archive: str, path: str, name: str, size: int) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise Unreadable(f"{archive} has no {name}, which it should have") from None
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise Unreadable(f"{archive}: {name} is no plain file")
    if found.st_size != size:
        raise Unreadable(f"{archive}: {name} has {found.st_size} bytes instead of {size}")


def _list(path: str, names: Mapping[str, object]) -> None:
    with open(path, "wb") as stream:
        stream.write(b"".join(os.fsencode(name) + b"\0" for name in names))


Start = Callable[..., "subprocess.Popen[bytes]"]


@contextlib.contextmanager
def _children() -> Iterator[Start]:
    """Starts programs that end with the block."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], keep: Sequence[int], stdin: int | IO[bytes] | None,
              stdout: int | IO[bytes] | None, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        started.append(process.companion(command, keep, stdout, stderr, stdin))
        return started[-1]

    try:
        yield start
    finally:
        for child in started:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream:
                    with contextlib.suppress(OSError):  # what was not written is of no use
                        stream.close()


def _pump(source: subprocess.Popen[bytes], target: subprocess.Popen[bytes], tell: Tell | None
          ) -> None:
    """Passes on what one program writes to another. A program that ended early is found by its
    status."""
    assert source.stdout and target.stdin
    with contextlib.suppress(BrokenPipeError):
        while data := source.stdout.read(CHUNK):
            target.stdin.write(data)
            if tell:
                tell(len(data))
    source.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        target.stdin.close()


def _failed(*children: subprocess.Popen[bytes]) -> bool:
    return any([child.wait() for child in children])  # all of them have to end


def _words(said: IO[bytes]) -> str:
    """The first line that a program has complained with."""
    said.seek(0)
    lines = [line.strip() for line in said.read(65536).decode(errors="replace").splitlines()]
    return next((line for line in lines if line), "it is no archive of a snapshot")
