# SPDX-License-Identifier: GPL-2.0-or-later
"""Our C++ classes in the linked QEMU.

Two static libraries of one binary may each have a class of the same name: the linker keeps one
destructor of both, and says nothing. So each library has namespaces of its own, and classes in
the common one must come from the common base.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LIBRARIES = {"snapshot": ("memory",), "coordinator": ("cluster", "network", "member", "wire")}
# The demangled name of a class's type information or of a function.
NAME = re.compile(r"\bhotsnap::(\w+)(?:::|\b)")
DECLARED = re.compile(r"\b(?:class|struct) (\w+)|\b(\w+)\(")


def common_names(symbols: str) -> set[str]:
    """Names that lie in namespace hotsnap itself, of the output of nm -C."""
    own = {space for spaces in LIBRARIES.values() for space in spaces}
    return {name for name in NAME.findall(symbols) if name not in own}


def faults(linked: str, base_headers: str, libraries: dict[str, str]) -> Iterable[str]:
    """Outputs of nm -C, of the linked QEMU and of each library, and the text of the base's
    headers."""
    base = {name for names in DECLARED.findall(base_headers) for name in names}
    spaces = set(NAME.findall(linked))
    for library, own in LIBRARIES.items():
        if not spaces & set(own):
            yield f"the linked QEMU has nothing of {library}/, so that this check sees nothing"
        foreign = {space for other, names in LIBRARIES.items() if other != library
                   for space in names}
        for space in sorted(set(NAME.findall(libraries[library])) & foreign):
            yield f"{library}/ has symbols of hotsnap::{space}, which is the other library's"
    for name in sorted(common_names(linked) - base):
        yield f"hotsnap::{name} is in the linked QEMU, and not in coordinator/base"
