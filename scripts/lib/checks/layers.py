# SPDX-License-Identifier: GPL-2.0-or-later
"""Which Python module may import which: packages depend downwards only, and in no circle.

Imports inside functions count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

# From the lowest layer to the highest. A module may import those of its own layer and of the layers
# below it.
HOTSNAP = (("errors",), ("record",), ("host",), ("formats",), ("model",), ("ui",), ("qemu",),
           ("disks",), ("store",), ("commands",), ("cli",), ("__main__",))
# The packages of this project that each package outside hotsnap may import.
USES = {"hotsnap": {"hotsnap"},
        "support": {"hotsnap", "support"},
        "hotsnap_bench": {"hotsnap", "support", "hotsnap_bench"},
        "hotsnap_quickstart": {"hotsnap", "support", "hotsnap_quickstart"}}
ROOTS = ("scripts/python/", "tests/")


def module_of(path: str) -> str | None:
    """The dotted name of a module of this project's packages; None for any other file."""
    for root in ROOTS:
        if path.startswith(root) and path.endswith(".py"):
            name = path.removeprefix(root).removesuffix(".py").replace("/", ".")
            name = name.removesuffix(".__init__")
            if name.split(".")[0] in USES:
                return name
    return None


def imports(module: str, is_package: bool, text: str) -> set[str]:
    """Names that a module imports: `a.b` of `import a.b`, `a.b` and `a.b.c` of `from a.b import c`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[:len(parts) - node.level + is_package]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Each module of the project's packages to those of them that it imports."""
    modules = {name: path for path in sources if (name := module_of(path))}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        wanted = imports(name, path.endswith("/__init__.py"), sources[path]) & modules.keys()
        # `from .a import b` names the package of `a` only as the way to it.
        found[name] = {each for each in wanted - {name}
                       if not any(other.startswith(each + ".") for other in wanted)}
    return found


def level(module: str) -> int:
    """The layer of a module of hotsnap, counted from below."""
    part = (module.split(".") + [""])[1]
    for number, names in enumerate(HOTSNAP):
        if part in names:
            return number
    return -1


def upward(edges: Mapping[str, set[str]]) -> Iterable[str]:
    for module, others in sorted(edges.items()):
        package = module.split(".")[0]
        if package == "hotsnap" and module != "hotsnap" and level(module) < 0:
            yield f"{module}: belongs to no layer: name it in scripts/lib/checks/layers.py"
        for other in sorted(others):
            if other.split(".")[0] not in USES[package]:
                yield f"{module}: imports {other}; {package} may not use that package"
            elif package == "hotsnap" and level(other) > level(module):
                yield f"{module}: imports {other}, which is in a layer above it"


def circles(edges: Mapping[str, set[str]]) -> Iterable[str]:
    """One complaint for each circle of modules that is found, by depth-first search."""
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> Iterable[str]:
        if module in way:
            yield " -> ".join((*way[way.index(module):], module)) + ": a circle of imports"
        elif module not in done:
            for other in sorted(edges[module]):
                yield from visit(other, (*way, module))
            done.add(module)

    for module in sorted(edges):
        yield from visit(module, ())


def faults(sources: Mapping[str, str]) -> list[str]:
    """`sources`: path of a file to its text."""
    edges = graph(sources)
    if "hotsnap.cli" not in edges:
        return ["there is no module hotsnap.cli: the check does not see the package"]
    return [*upward(edges), *circles(edges)]
