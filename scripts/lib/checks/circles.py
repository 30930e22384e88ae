# SPDX-License-Identifier: GPL-2.0-or-later
"""Dependences among the C and C++ files: no circle in QEMU's overlay, and none of a library on the
other but on their base.

A file and its header are one node. A node depends on another when it includes its header, or names
a function or object that the other defines. A circle means that none of its files can be
understood, tested or replaced alone.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

OVERLAY = "qemu/overlay/hotsnap/"
INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
# A definition at file scope: a type at the start of a line, the name, and a body or a value.
FUNCTION = re.compile(r"^(?!static\b|typedef\b|#)[A-Za-z_][\w \t\n*]*?\b(\w+)\([^;{}]*?\)\n\{",
                      re.MULTILINE)
OBJECT = re.compile(r"^(?!static\b|typedef\b|extern\b|#)[A-Za-z_][\w \t*]*?\b(\w+)(?:\[\w*\])? = ",
                    re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')

# The includes that are forbidden to all files of a folder, by that folder.
FOREIGN = {"snapshot/": ("network/", "wire/", "member/", "coordinator.h", "hotsnap/coordinator.h",
                         "hotsnap/mediator.h", "hotsnap/member.h"),
           "coordinator/": ("guest/", "trap/", "save/", "image/", "os/", "hotsnap/snapshot.h"),
           "coordinator/base/": ("network/", "wire/", "member/")}

Graph = dict[str, set[str]]


def node(path: str) -> str:
    return posixpath.splitext(path)[0]


def dependencies(texts: Mapping[str, str]) -> Graph:
    """Of the files in `texts` (path within the folder -> content), *.c and *.h."""
    graph: Graph = {node(path): set() for path in texts}
    owner: dict[str, str] = {}
    bare: dict[str, str] = {}
    for path, text in texts.items():
        for name in INCLUDE.findall(text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            if target in texts:
                graph[node(path)].add(node(target))
        bare[path] = STRING.sub('""', COMMENT.sub(" ", text))
        if path.endswith(".c"):
            for name in FUNCTION.findall(bare[path]) + OBJECT.findall(bare[path]):
                owner[name] = node(path)
    for path, text in bare.items():
        for word in set(re.findall(r"\b\w+\b", text)):
            if word in owner and not (path.endswith(".h") and node(path) != owner[word]):
                graph[node(path)].add(owner[word])
    for name, targets in graph.items():
        targets.discard(name)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """The sets of nodes that depend on each other, each sorted (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def overlay_faults(texts: Mapping[str, str]) -> list[str]:
    """Circles among the files of the overlay, in all files of the repository."""
    own = {path.removeprefix(OVERLAY): text for path, text in texts.items()
           if path.startswith(OVERLAY) and path.endswith((".c", ".h"))}
    graph = dependencies(own)
    if not any(graph.values()):
        return [f"{OVERLAY}: no dependency found, so that this check sees nothing"]
    return [f"{OVERLAY}: a circle among {', '.join(group)}: " +
            "; ".join(f"{name} -> {', '.join(sorted(graph[name] & set(group)))}"
                      for name in group)
            for group in circles(graph)]


def library_faults(texts: Mapping[str, str]) -> Iterable[str]:
    """Includes by which one library would depend on the other, or their base on either."""
    for path, text in texts.items():
        if path.endswith((".cc", ".h", ".c")):
            for library, foreign in FOREIGN.items():
                if path.startswith(library):
                    for name in INCLUDE.findall(text):
                        if name.startswith(foreign):
                            yield f"{path}: includes {name}, of another library"
