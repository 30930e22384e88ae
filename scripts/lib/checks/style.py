# SPDX-License-Identifier: GPL-2.0-or-later
"""The group "style": rules for every file of the repository.

The checks of text are functions from a file's text to complaints, so that each can be shown to
find what it looks for (tests/unit/python/test_check_style.py).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable

from . import circles, layers
from .context import Context, output_of
from .results import FAILED, PASSED, Result

MAX_LINES = 800
SPDX = "SPDX-License-Identifier: GPL-2.0-or-later"
CXX = (".cc", ".cpp", ".h", ".hh")
# Code under QEMU's and Linux' own rules (see the group "patches").
FOREIGN_STYLE = ("qemu/", "kvm-patches/")
SOURCES = (*CXX, ".c", ".py", ".sh", ".build")
# Not code: no place for a licence line of ours.
NO_SPDX = (".md", ".patch", ".json", ".txt", ".svg", ".toml", ".golden")

Complaints = Iterable[str]


def files(root: str) -> list[str]:
    """The repository's files: committed ones, and those about to be."""
    status, text = output_of("git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached",
                             "--others", "--exclude-standard", cwd=root)
    if status != 0:
        raise RuntimeError(f"git ls-files: {text.strip()}")
    return sorted(path for path in set(text.split("\0"))
                  if path and os.path.isfile(os.path.join(root, path))
                  and not os.path.islink(os.path.join(root, path)))


def is_shell(path: str, text: str) -> bool:
    return path.endswith(".sh") or bool(re.match(r"#!\s*/\S*\b(ba)?sh\b", text))


def is_python(path: str, text: str) -> bool:
    return path.endswith(".py") or bool(re.match(r"#!.*\bpython3?\b", text))


def needs_spdx(path: str, text: str) -> bool:
    return path.endswith(SOURCES) or (text.startswith("#!") and not path.endswith(NO_SPDX))


def missing_spdx(path: str, text: str) -> Complaints:
    if needs_spdx(path, text) and SPDX not in "\n".join(text.splitlines()[:2]):
        yield f"{path}: none of its first two lines says {SPDX}"


def too_long(path: str, text: str) -> Complaints:
    count = text.count("\n")
    if path != "LICENSE" and count > MAX_LINES:
        yield f"{path}: {count} lines, more than {MAX_LINES}: does it still have one job?"


def names_host(hosts: list[str]) -> Callable[[str, str], Complaints]:
    """A mirror is read from the machine's apt configuration, never written down."""
    pattern = re.compile("|".join(re.escape(host) for host in hosts), re.IGNORECASE)

    def check(path: str, text: str) -> Complaints:
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                yield f"{path}:{number}: names the machine's package mirror"
    return check


def names_path(parent: str) -> Callable[[str, str], Complaints]:
    """Paths of the machine that the checkout happens to be on."""
    def check(path: str, text: str) -> Complaints:
        for number, line in enumerate(text.splitlines(), 1):
            if parent in line:
                yield f"{path}:{number}: names {parent}, a folder of this machine"
    return check


def bad_whitespace(path: str, text: str) -> Complaints:
    if path.endswith(".patch"):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: blanks at the end of the line"
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at its end"


def mirror_hosts() -> list[str]:
    _, text = output_of("apt-get", "indextargets", "--format", "$(SITE) $(REPO_URI)")
    return sorted(set(re.findall(r"://(?:[^/@\s]*@)?([^/:\s]+)", text)))


def unformatted(root: str, paths: list[str]) -> str:
    """Complaints of clang-format about C++ files; none if they are as .clang-format wants them."""
    status, text = output_of("clang-format", "--dry-run", "-Werror", "--style=file", *paths,
                             cwd=root)
    return "" if status == 0 else text


def shell_faults(root: str, paths: list[str]) -> str:
    status, text = output_of("shellcheck", "--format=gcc", *paths, cwd=root)
    return "" if status == 0 else text


def python_faults(root: str, paths: list[str]) -> str:
    """Files that do not compile, names that are not defined, imports that nothing uses."""
    status, text = output_of("pyflakes3", *paths, cwd=root)
    return "" if status == 0 else text


def style(context: Context) -> None:
    context.packages("style")
    with context.timed("style"):
        check_style(context)


def check_style(context: Context) -> None:
    root = context.root
    texts = {}
    for path in files(root):
        with open(os.path.join(root, path), "rb") as stream:
            data = stream.read()
        if b"\0" not in data:
            texts[path] = data.decode("utf-8", "replace")

    def over_all(name: str, check: Callable[[str, str], Complaints]) -> None:
        report(context, name, [found for path, text in texts.items()
                               for found in check(path, text)])

    own = [path for path in texts if not path.startswith(FOREIGN_STYLE)]
    report(context, "clang-format",
           unformatted(root, [path for path in own if path.endswith((*CXX, ".c"))]).splitlines())
    report(context, "shellcheck",
           shell_faults(root, [path for path in own if is_shell(path, texts[path])]).splitlines())
    report(context, "pyflakes",
           python_faults(root, [path for path in own if is_python(path, texts[path])]).splitlines())
    report(context, "layers of Python", layers.faults(
        {path: texts[path] for path in own if layers.module_of(path)}))
    report(context, "no circle in the overlay", circles.overlay_faults(texts))
    report(context, "libraries apart", list(circles.library_faults(texts)))
    over_all("licence line", missing_spdx)
    over_all("file length", too_long)
    over_all("whitespace", bad_whitespace)
    hosts = mirror_hosts()
    if hosts:
        over_all("no mirror's name", names_host(hosts))
    else:
        context.skip("style", "no mirror's name", "apt has no mirror configured")
    parent = os.path.dirname(root)
    if parent.count("/") >= 1 and parent not in ("/", "/tmp", "/root", "/home", "/srv", "/opt"):
        over_all("no path of the machine", names_path(parent + "/"))
    else:
        context.skip("style", "no path of the machine",
                     f"the checkout lies in {parent}, which files may well name")


def report(context: Context, name: str, complaints: list[str]) -> None:
    log = context.log(name)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, "w", encoding="utf-8") as stream:
        stream.writelines(f"{complaint}\n" for complaint in complaints)
    for complaint in complaints[:10]:
        print(f"  | {complaint}", file=sys.stderr)
    context.report.add([Result("style", name, FAILED if complaints else PASSED,
                               f"{len(complaints)} lines of complaint" if complaints else "")],
                       log)
