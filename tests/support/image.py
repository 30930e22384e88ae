# SPDX-License-Identifier: GPL-2.0-or-later
"""An independent reader of QEMU's mapped-ram images (docs/devel/migration/mapped-ram.rst of QEMU).

It shares no code with the programs that write the images, and reads images of stock QEMU as well. A
page whose bit is clear in its block's bitmap is zero; comparisons treat it as equal to a page in
the file that holds zeros.

    with Image("bundle/a/state") as image:
        image.page("pc.ram", 0x1000)

    python3 -m support.image info|tags [--json] FILE...
    python3 -m support.image compare [--json] FILE FILE      exits with 1 when they differ
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hotsnap.errors import HotsnapError

from . import tags

FILE_MAGIC = 0x5145564D
FILE_VERSION = 3
SECTION_EOF, SECTION_START, SECTION_FULL = 0x00, 0x01, 0x04
SUBSECTION, VMDESCRIPTION, CONFIGURATION, FOOTER = 0x05, 0x06, 0x07, 0x7E
RAM_VERSION = 4
RAM_FLAG_MEM_SIZE, RAM_FLAG_EOS = 0x04, 0x10
RAM_FLAGS = 0xFFF
MAPPED_RAM_VERSION = 1
WORD_PAGES = 64


class ImageError(HotsnapError):
    """The file is no mapped-ram image, or is damaged; the text names the file and the offset."""


class Page(NamedTuple):
    """A page of guest memory, by its block's name and its offset in the block, in bytes."""

    block: str
    offset: int


@dataclass
class Block:
    """One RAM block of the guest; sizes and offsets in bytes."""

    name: str
    length: int
    page_size: int
    bitmap_offset: int
    pages_offset: int
    bitmap: bytes = field(repr=False)

    @property
    def pages(self) -> int:
        return self.length // self.page_size

    def word(self, index: int) -> int:
        """The bits of WORD_PAGES pages, the first one lowest."""
        return int.from_bytes(self.bitmap[index * 8:index * 8 + 8], "little")

    def present(self) -> Iterator[int]:
        """Indexes of the pages that the file holds, in order."""
        for index in range(len(self.bitmap) // 8):
            yield from _bits(self.word(index), index * WORD_PAGES)

    def present_count(self) -> int:
        return int.from_bytes(self.bitmap, "little").bit_count()


def _bits(word: int, base: int) -> Iterator[int]:
    while word:
        low = word & -word
        yield base + low.bit_length() - 1
        word ^= low


class _Stream:
    """Reads the big-endian fields of a migration stream; every read is checked against the end."""

    def __init__(self, data: mmap.mmap, path: str):
        self.data, self.path, self.at = data, path, 0

    def fail(self, what: str) -> ImageError:
        return ImageError(f"{self.path}: {what} at offset {self.at:#x}")

    def bytes(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise self.fail(f"truncated: {count} more bytes are needed")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "big")

    def string(self, size_bytes: int = 1) -> str:
        raw = self.bytes(self.number(size_bytes))
        try:
            return raw.decode("ascii")
        except UnicodeDecodeError as error:
            raise self.fail(f"{raw!r} is not a name") from error

    def expect(self, size: int, value: int, what: str) -> None:
        start = self.at
        found = self.number(size)
        if found != value:
            self.at = start
            raise self.fail(f"{what} is {found:#x} and not {value:#x}")


class Image:
    """A mapped-ram image, mapped read-only. Pages are read on demand."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.machine = ""
        self.capabilities: list[str] = []
        self.blocks: dict[str, Block] = {}
        self._file = open(self.path, "rb")
        try:
            if os.fstat(self._file.fileno()).st_size == 0:
                raise ImageError(f"{self.path}: is empty")
            self._data = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
            self._view = memoryview(self._data)
            try:
                stream = _Stream(self._data, self.path)
                self._read_configuration(stream)
                self._read_ram_section(stream)
                self.devices = self._read_description(stream)
            except BaseException:
                self._view.release()
                self._data.close()
                raise
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._view.release()
        self._data.close()
        self._file.close()

    # --- the stream ---

    def _read_configuration(self, stream: _Stream) -> None:
        stream.expect(4, FILE_MAGIC, "the file's magic number")
        stream.expect(4, FILE_VERSION, "the stream's version")
        stream.expect(1, CONFIGURATION, "the first section's type")
        self.machine = stream.string(4)
        while stream.data[stream.at:stream.at + 1] == bytes([SUBSECTION]):
            stream.bytes(1)
            name = stream.string()
            stream.number(4)  # version
            if name == "configuration/capabilities":
                self.capabilities = [stream.string() for _ in range(stream.number(4))]
            elif name == "configuration/target-page-bits":
                stream.number(4)
            elif name == "configuration/uuid":
                stream.bytes(16)
            else:
                raise stream.fail(f"unknown subsection {name}")
        if "mapped-ram" not in self.capabilities:
            raise stream.fail("the stream was not written with mapped-ram")

    def _read_ram_section(self, stream: _Stream) -> None:
        kind = stream.number(1)
        section, name = stream.number(4), ""
        if kind in (SECTION_START, SECTION_FULL):
            name = stream.string()
        if kind != SECTION_START or name != "ram":
            raise stream.fail(f"the section after the configuration is '{name}' and not RAM's setup")
        stream.number(4)  # instance
        stream.expect(4, RAM_VERSION, "the version of the RAM section")
        total = stream.number(8)
        if total & RAM_FLAGS != RAM_FLAG_MEM_SIZE:
            raise stream.fail("the RAM section does not begin with its size")
        total &= ~RAM_FLAGS
        while total > 0:
            block = self._read_block(stream)
            if block.length > total or block.name in self.blocks:
                raise stream.fail(f"block {block.name} does not fit the list of blocks")
            total -= block.length
            self.blocks[block.name] = block
        stream.expect(8, RAM_FLAG_EOS, "the end of the list of blocks")
        stream.expect(1, FOOTER, "the footer of the RAM section")
        stream.expect(4, section, "the section in the footer")

    def _read_block(self, stream: _Stream) -> Block:
        name, length = stream.string(), stream.number(8)
        if "x-ignore-shared" in self.capabilities:
            stream.number(8)  # guest-physical address
        stream.expect(4, MAPPED_RAM_VERSION, "the version of the mapped-ram header")
        page_size, bitmap_offset, pages_offset = struct.unpack(">QQQ", stream.bytes(24))
        if page_size < 512 or page_size & (page_size - 1) or length % page_size:
            raise stream.fail(f"block {name}: pages of {page_size} bytes in {length}")
        size = (length // page_size + WORD_PAGES - 1) // WORD_PAGES * 8
        if bitmap_offset != stream.at or pages_offset < bitmap_offset + size:
            raise stream.fail(f"block {name}: bitmap at {bitmap_offset:#x}, "
                              f"pages at {pages_offset:#x}")
        bitmap = stream.bytes(size)
        if int.from_bytes(bitmap, "little") >> (length // page_size):
            raise stream.fail(f"block {name}: bits beyond its last page")
        stream.at = pages_offset
        stream.bytes(0)
        if pages_offset + length > len(stream.data):
            raise stream.fail(f"truncated: block {name} needs {length} bytes")
        stream.at = pages_offset + length
        return Block(name, length, page_size, bitmap_offset, pages_offset, bitmap)

    def _read_description(self, stream: _Stream) -> list[dict[str, Any]]:
        """The description of the device sections, which is the last section of a stream.

        The sections before it have no length of their own, so it is found from its end.
        """
        at = stream.data.rfind(bytes([SECTION_EOF, VMDESCRIPTION]), stream.at)
        while at >= 0:
            size = int.from_bytes(stream.data[at + 2:at + 6], "big")
            if at + 6 + size == len(stream.data):
                try:
                    return json.loads(stream.data[at + 6:])["devices"]
                except (ValueError, KeyError, TypeError):
                    pass
            at = stream.data.rfind(bytes([SECTION_EOF, VMDESCRIPTION]), stream.at, at)
        stream.at = len(stream.data)
        raise stream.fail("truncated: no description of the devices")

    # --- pages ---

    def _slice(self, block: Block, index: int, count: int = 1) -> memoryview:
        start = block.pages_offset + index * block.page_size
        return self._view[start:start + count * block.page_size]

    def page(self, block: str, offset: int) -> bytes:
        """The page of `block` that holds byte `offset`; zeros when the file does not hold it."""
        entry = self.blocks[block]
        if not 0 <= offset < entry.length:
            raise IndexError(f"{block} has {entry.length:#x} bytes, and none at {offset:#x}")
        index = offset // entry.page_size
        if not entry.word(index // WORD_PAGES) >> (index % WORD_PAGES) & 1:
            return bytes(entry.page_size)
        return bytes(self._slice(entry, index))

    def nonzero_pages(self) -> Iterator[tuple[Page, memoryview]]:
        """Every page that is not all zeros, as a view of the mapped file."""
        for block in self.blocks.values():
            zero = bytes(block.page_size)
            for index in block.present():
                data = self._slice(block, index)
                if data != zero:
                    yield Page(block.name, index * block.page_size), data

    def tags(self) -> list[tuple[Page, tags.Tag]]:
        """The tagged pages of the guest's programs (see tags.py)."""
        found = []
        for block in self.blocks.values():
            for index in block.present():
                start = block.pages_offset + index * block.page_size
                if self._data[start:start + len(tags.MAGIC)] == tags.MAGIC:
                    tag = tags.parse(self._data[start:start + block.page_size])
                    if tag is not None:
                        found.append((Page(block.name, index * block.page_size), tag))
        return found

    def info(self) -> dict[str, Any]:
        """The output of `info`, as an object."""
        return {
            "file": self.path, "size": len(self._data), "machine": self.machine,
            "capabilities": self.capabilities,
            "blocks": [{"name": block.name, "length": block.length, "page_size": block.page_size,
                        "pages": block.pages, "present": block.present_count(),
                        "bitmap_offset": block.bitmap_offset, "pages_offset": block.pages_offset}
                       for block in self.blocks.values()],
            "devices": [{"name": device.get("name"), "instance": device.get("instance_id")}
                        for device in self.devices],
        }


def compare(a: Image, b: Image) -> list[Page]:
    """The pages in which two images of one guest differ, in order; the images must have the same
    RAM blocks (ImageError otherwise)."""
    shape_a = {block.name: (block.length, block.page_size) for block in a.blocks.values()}
    shape_b = {block.name: (block.length, block.page_size) for block in b.blocks.values()}
    if shape_a != shape_b:
        raise ImageError(f"{a.path} and {b.path} are of different guests: "
                         f"blocks {shape_a} and {shape_b}")
    differing = []
    for name, block_a in a.blocks.items():
        block_b = b.blocks[name]
        zero = memoryview(bytes(block_a.page_size))
        full = (1 << WORD_PAGES) - 1
        for index in range(len(block_a.bitmap) // 8):
            word_a, word_b = block_a.word(index), block_b.word(index)
            base = index * WORD_PAGES
            # Most words are full in both: one comparison for all of their pages.
            if word_a == word_b == full and (a._slice(block_a, base, WORD_PAGES) ==
                                             b._slice(block_b, base, WORD_PAGES)):
                continue
            for page in _bits(word_a | word_b, base):
                bit = 1 << (page - base)
                data_a = a._slice(block_a, page) if word_a & bit else zero
                data_b = b._slice(block_b, page) if word_b & bit else zero
                if data_a != data_b:
                    differing.append(Page(name, page * block_a.page_size))
    return differing


# --- command line ----------------------------------------------------------------------------------

def _info(options: argparse.Namespace) -> int:
    infos = []
    for path in options.file:
        with Image(path) as image:
            infos.append(image.info())
    if options.json:
        print(json.dumps(infos, indent=2))
        return 0
    for info in infos:
        print(f"{info['file']}: {info['machine']}, {len(info['devices'])} device sections")
        for block in info["blocks"]:
            print(f"  {block['name']}: {block['length'] >> 10} KiB, "
                  f"{block['present']} of {block['pages']} pages present")
    return 0


def _tags(options: argparse.Namespace) -> int:
    found = []
    for path in options.file:
        with Image(path) as image:
            found += [{"file": path, "block": page.block, "offset": page.offset, **tag.as_dict()}
                      for page, tag in image.tags()]
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for entry in found:
            print(" ".join(f"{key}={value}" for key, value in entry.items()))
    return 0


def _compare(options: argparse.Namespace) -> int:
    if len(options.file) != 2:
        print("compare needs two files", file=sys.stderr)
        return 2
    with Image(options.file[0]) as a, Image(options.file[1]) as b:
        differing = compare(a, b)
    if options.json:
        print(json.dumps({"identical": not differing, "differing": [p._asdict() for p in differing]}))
    else:
        for page in differing:
            print(f"{page.block} {page.offset:#x}")
        print(f"{len(differing)} pages differ" if differing else "identical")
    return 1 if differing else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="support.image", description="Read mapped-ram images.")
    parser.add_argument("action", choices=["info", "tags", "compare"])
    parser.add_argument("file", nargs="+")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        return {"info": _info, "tags": _tags, "compare": _compare}[options.action](options)
    except (ImageError, OSError) as error:
        print(f"support.image: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
