# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups that run compiled test programs: unit, simulation, and unit under the sanitizers."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import formats, symbols
from .context import ALL, CannotRun, Context, output_of, read_text

SLOWDOWN = {"host": 1, "host-asan": 4, "host-tsan": 10}
LEAST_TIMEOUT = 600.0

SANITIZERS = {
    "host-asan": {"ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
                  "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
    "host-tsan": {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"},
}
# A fault that each sanitizer must see, compiled as the tests are; otherwise its silence about
# them would mean nothing.
PLANTED = {
    "host-asan": ("-fsanitize=address,undefined", "heap-buffer-overflow", """
#include <vector>
int main(int argc, char **) { std::vector<int> v(4); return v.data()[argc + 3]; }
"""),
    "host-tsan": ("-fsanitize=thread", "data race", """
#include <thread>
int shared;
int main() { std::thread t([] { shared = 1; }); shared = 2; t.join(); return 0; }
"""),
}


# Kinds of memory and of clusters have the same threads: the default tier looks at one for races.
KINDS_LEFT = ("memfd", "privateMemfd", "hugetlb*", "largeClusters", "onePageClusters")
KINDS_LEFT_OF_PRECOPY = (*KINDS_LEFT, "littleIsWritten")
# Tests with one thread, which are slow under that sanitizer.
ONE_THREAD = ("Holes.*", "ImageLayout.*", "Images.*", "ImageWriter.*")


def unit(context: Context) -> None:
    context.packages("operator", "style")
    # The scripts' tests use QEMU's tools: without a QEMU they would be skipped.
    if context.tier != ALL and "sanitize" in context.groups:
        # With the address sanitizer they see all that they see without, and more.
        context.leave("tests of the libraries without a sanitizer")
        context.script("build", "qemu")
    else:
        context.script("build", "libs", "qemu")
        run_meson_tests(context, "host", simulation=False)
    check_symbols(context)
    for path in sorted(glob.glob(context.path("tests", "unit", "python", "test_*.py"))):
        context.run(os.path.basename(path),
                    [sys.executable, "-m", "checks.pyunit", path], LEAST_TIMEOUT,
                    env={"PYTHONPATH": context.path("scripts", "lib"),
                         "PYTHONDONTWRITEBYTECODE": "1"})


def check_symbols(context: Context) -> None:
    def names(*path: str) -> str:
        return output_of("nm", "-C", os.path.join(context.build, *path))[1]

    def complaint() -> str:
        headers = "".join(read_text(path) for path in
                          glob.glob(context.path("coordinator", "base", "*.h")))
        return "; ".join(symbols.faults(
            names("qemu", "qemu-system-x86_64"), headers,
            {library: names("host", library, f"libhotsnap-{library}.a")
             for library in symbols.LIBRARIES}))

    context.check("linked-qemu", "classes of two libraries have two names", complaint)


def simulation(context: Context) -> None:
    context.script("build", "simulation")
    run_meson_tests(context, "host", simulation=True)


def sanitize(context: Context) -> None:
    for kind, target in (("host-asan", "asan"), ("host-tsan", "tsan")):
        context.script("build", target)
        wrapper = plain_addresses() if kind == "host-tsan" else []
        planted_fault(context, kind, wrapper)
        run_meson_tests(context, kind, simulation=False, wrapper=wrapper,
                        env={**SANITIZERS[kind], **fewer_examples(context),
                             **(fewer_kinds(context) if kind == "host-tsan" else {})})


def fewer_examples(context: Context) -> dict[str, str]:
    """For rapidcheck: a quarter of its examples by default; sanitized all of them take minutes."""
    if context.tier == ALL:
        return {}
    context.leave("three quarters of the examples of property tests")
    return {"RC_PARAMS": "max_success=25"}


def fewer_kinds(context: Context) -> dict[str, str]:
    if context.tier == ALL:
        return {}
    context.leave("some kinds of memory, and formats of images, under the thread sanitizer")
    left = [*ONE_THREAD, *(f"Kinds/*Identity.*/{kind}" for kind in KINDS_LEFT),
            *(f"Kinds/Precopy.*/{kind}" for kind in KINDS_LEFT_OF_PRECOPY)]
    return {"GTEST_FILTER": "-" + ":".join(left)}


def plain_addresses() -> list[str]:
    """GCC 12's ThreadSanitizer does not know the address layout of newer kernels; without
    address space randomization it does. Some containers forbid turning that off."""
    command = ["setarch", "-R"]
    return command if output_of(*command, "true")[0] == 0 else []


def planted_fault(context: Context, kind: str, wrapper: Sequence[str]) -> None:
    flags, expected, source = PLANTED[kind]
    program = os.path.join(context.build, kind, "planted")

    def complaint() -> str:
        status, text = output_of("g++", "-std=c++20", "-O1", "-g", *flags.split(), "-pthread", "-x",
                                 "c++", "-", "-o", program, data=source)
        if status != 0:
            return f"the planted fault does not compile: {text.strip()[:200]}"
        status, text = output_of(*wrapper, program)
        if status == 0 or expected not in text:
            return f"the sanitizer did not report a planted {expected}"
        return ""

    context.check(kind, "sees a planted fault", complaint)


def is_of(test: Mapping[str, Any], suite: str) -> bool:
    """Meson names a suite with the project before it."""
    return any(suite in name.split(":") for name in test["suite"])


def run_meson_tests(context: Context, kind: str, *, simulation: bool,
                    env: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()) -> None:
    """Every test that meson knows in build/`kind`, of the suite "simulation" or of the others. Those
    of the suite "all" are left to that tier."""
    folder = os.path.join(context.build, kind)
    status, text = output_of("/usr/bin/meson", "introspect", "--tests", folder)
    if status != 0:
        raise CannotRun(f"meson cannot list the tests of build/{kind}: {text.strip()[:200]}")
    chosen = [test for test in json.loads(text) if simulation == is_of(test, "simulation")]
    if not chosen:
        raise CannotRun(f"build/{kind} has no such tests")
    prefix = "" if kind == "host" else kind.removeprefix("host-") + "+"
    for test in chosen:
        program = prefix + test["name"]
        if is_of(test, ALL) and context.tier != ALL:
            context.leave(program)
            continue
        output = os.path.splitext(context.log(program))[0] + ".json"
        # Seconds of 0 or less mean "no limit" to meson; here nothing is without one.
        timeout = max(LEAST_TIMEOUT, test["timeout"]) * SLOWDOWN[kind]
        context.run(
            program, [*wrapper, *test["cmd"]], timeout,
            formats.read_tap if test.get("protocol") == "tap" else None, gtest_output=output,
            env={**{key: str(value) for key, value in test["env"].items()}, **(env or {}),
                 "GTEST_OUTPUT": f"json:{output}"},
            cwd=test.get("workdir") or folder)

