# SPDX-License-Identifier: GPL-2.0-or-later
"""hotsnap installed: by pip, with no package index to be reached, and by meson install. The command
runs, finds its QEMU, and has its completion and man page."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

import operator_fixtures
from hotsnap import __version__, cli, errors
from hotsnap.formats import sums
from operator_fixtures import CHECKOUT

PYTHON = "/usr/bin/python3"
MESON = "/usr/bin/meson"
CLUSTER = '[cluster]\nname = "x"\n[[member]]\nname = "a"\n'
# An index that refuses every connection; a proxy, were there one, would be asked in vain too.
OFFLINE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_TIMEOUT": "1",
           "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


class Installed:
    """What must hold of an installation, however it was made; subclasses make it."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="hs-install-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.prefix = cls.install(folder.name)

    def setUp(self):
        self.work = tempfile.mkdtemp(dir=self.folder)
        with open(os.path.join(self.work, "cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(CLUSTER)

    def hotsnap(self, *arguments, code=0):
        done = run(os.path.join(self.prefix, "bin", "hotsnap"), *arguments, cwd=self.work,
                   env={"PATH": "/usr/bin:/bin", "HOME": self.work})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_it_runs(self):
        self.assertEqual(self.hotsnap("--version"), f"hotsnap {__version__}\n")
        self.assertIn("exit codes", self.hotsnap("--help"))
        self.assertIn("TAG", self.hotsnap("ls"))

    def test_every_module_is_there(self):
        source = os.path.join(CHECKOUT, "scripts", "python", "hotsnap")
        wanted = {os.path.relpath(os.path.join(folder, name), source)
                  for folder, _, names in os.walk(source) for name in names if name.endswith(".py")}
        package, = [folder for folder, _, names in os.walk(self.prefix) if "cli.py" in names
                    and "record.py" in names]
        found = {os.path.relpath(os.path.join(folder, name), package)
                 for folder, _, names in os.walk(package) for name in names
                 if name.endswith(".py")}
        self.assertEqual(found, wanted)

    def test_qemu_is_looked_for_beside_it(self):
        place = os.path.join(self.prefix, "libexec", "hotsnap")
        told = self.hotsnap("up", code=1)
        for part in ("HOTSNAP_QEMU", "scripts/build qemu", place):
            self.assertIn(part, told)
        os.makedirs(place)
        self.addCleanup(shutil.rmtree, place)
        for name, text in (("qemu-system-x86_64", "echo it is asked >&2; exit 1"),
                           ("qemu-img", "exit 1")):
            path = os.path.join(place, name)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(f"#!/bin/sh\n{text}\n")
            os.chmod(path, 0o755)
        self.assertNotIn("no QEMU", self.hotsnap("up", code=1))

    def test_checksums(self):
        if sums.xxh3_64_intdigest is sums._missing:  # pylint: disable=protected-access
            self.skipTest("neither python3-xxhash nor libxxhash is installed")
        operator_fixtures.make_bundle(os.path.join(self.work, "bundles"))
        self.assertIn("t1: whole", self.hotsnap("verify", "bundles/t1"))

    def test_completion(self):
        script = os.path.join(self.prefix, "share", "bash-completion", "completions", "hotsnap")
        done = run("bash", "-c", 'source "$1"; COMP_WORDS=(hotsnap ""); COMP_CWORD=1; _hotsnap; '
                   'printf "%s\\n" "${COMPREPLY[@]}"', "bash", script, cwd=self.work)
        parser = cli.build_parser()
        wanted = {name for action in parser._actions  # pylint: disable=protected-access
                  for name in action.option_strings if name.startswith("--")}
        self.assertEqual(set(done.stdout.split()), wanted | set(cli.commands_of(parser)))

    def test_man_page(self):
        page = os.path.join(self.prefix, "share", "man", "man1", "hotsnap.1")
        with open(page, encoding="utf-8") as stream:
            text = re.sub(r"\\f[BIR]", "", stream.read().replace("\\-", "-"))
        parts = re.split(r"^\.SS ([a-z]+)", text, flags=re.M)
        documented = dict(zip(parts[1::2], parts[2::2]))
        parsers = cli.commands_of(cli.build_parser())
        self.assertEqual(documented.keys(), parsers.keys())
        for name, parser in parsers.items():
            usage = parser.format_help()
            self.assertEqual(set(re.findall(r"(?<![\w-])--[a-z-]+", documented[name]
                                            .partition(".SH")[0])),
                             set(re.findall(r"(?<![\w-])--[a-z-]+", usage)), name)

    def test_man_page_is_well_formed(self):
        if not shutil.which("man"):
            self.skipTest("man is not installed")
        page = os.path.join(self.prefix, "share", "man", "man1", "hotsnap.1")
        self.assertEqual(self.complaints(page), "")
        broken = os.path.join(self.work, "broken.1")
        with open(page, encoding="utf-8") as stream, open(broken, "w", encoding="utf-8") as to:
            to.write(stream.read().replace(".SH OPTIONS", ".NOSUCH OPTIONS"))
        self.assertIn("NOSUCH", self.complaints(broken))

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd is not installed")
    def test_unit_of_systemd(self):
        path = os.path.join(self.prefix, "lib", "systemd", "system", "hotsnap-every@.service")
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        command = re.search(r"^ExecStart=(.*) every \$EVERY$", text, re.M)[1]
        self.assertTrue(("/opt/hotsnap/bin/hotsnap", "hotsnap").count(command), command)
        # What it says of the command is true where the command is now.
        text = text.replace(f"={command} ", f"={self.prefix}/bin/hotsnap ")
        self.assertEqual(self.complaints_of_unit(text), "")
        self.assertIn("Nonsense", self.complaints_of_unit(text.replace("Restart=", "Nonsense=")))
        self.assertIn("nowhere", self.complaints_of_unit(text.replace(self.prefix, "/nowhere")))

    def complaints_of_unit(self, text):
        path = os.path.join(self.work, "hotsnap-every@lab.service")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        done = run("systemd-analyze", "verify", "--man=no", path)
        return "".join(line for line in (done.stdout + done.stderr).splitlines(keepends=True)
                       if "hotsnap" in line)

    @staticmethod
    def complaints(page):
        return run("man", "--warnings=w", "--local-file", page, env={
            **os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}).stderr


class ByPip(Installed, unittest.TestCase):
    @classmethod
    def install(cls, folder):
        prefix = os.path.join(folder, "venv")
        made = run(PYTHON, "-m", "venv", prefix)
        if made.returncode != 0:
            raise unittest.SkipTest(f"no virtual environments here: {made.stdout.strip()[-200:]}")
        done = run(os.path.join(prefix, "bin", "pip"), "install", "--no-cache-dir",
                   os.path.join(CHECKOUT, "scripts", "python"), cwd=folder,
                   env={"PATH": "/usr/bin:/bin", "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1",
                        **OFFLINE})
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        return prefix

    def test_without_the_module_xxhash(self):
        """The environment has no xxhash, so that the library is used."""
        done = run(os.path.join(self.prefix, "bin", "python"), "-c", "import xxhash")
        self.assertIn("ModuleNotFoundError", done.stderr)

    def test_uninstalled(self):
        """pip knows each of the files."""
        shown = run(os.path.join(self.prefix, "bin", "pip"), "show", "--files", "hotsnap").stdout
        for part in ("hotsnap/cli.py", "bin/hotsnap", "man1/hotsnap.1", "completions/hotsnap"):
            self.assertIn(part, shown)


@unittest.skipUnless(os.path.exists(MESON), "meson is not installed")
class ByMeson(Installed, unittest.TestCase):
    @classmethod
    def install(cls, folder):
        build, destination = os.path.join(folder, "build"), os.path.join(folder, "destination")
        for command in (
                (MESON, "setup", "-Dtests=false", "--prefix=/opt/hotsnap", build, CHECKOUT),
                ("ninja", "-C", build, "scripts/python/hotsnap.1"),
                (MESON, "install", "-C", build, "--no-rebuild", "--tags", "command",
                 "--destdir", destination)):
            done = run(*command, env={**os.environ, "PATH": "/usr/bin:/bin", "CC": "gcc",
                                      "CXX": "g++"})  # and not ccache, with a cache elsewhere
            if done.returncode != 0:
                raise AssertionError(done.stdout[-2000:] + done.stderr)
        return os.path.join(destination, "opt", "hotsnap")


class Package(unittest.TestCase):
    """What is true of the package wherever it is."""

    def test_one_version(self):
        with open(os.path.join(CHECKOUT, "meson.build"), encoding="utf-8") as stream:
            self.assertIn(f"version: '{__version__}'", stream.read())

    def test_one_root_of_all_exceptions(self):
        classes = set()
        for module in modules("hotsnap"):
            classes.update(each for each in vars(__import__(module, fromlist=["x"])).values()
                           if isinstance(each, type) and issubclass(each, Exception)
                           and each.__module__.startswith("hotsnap"))
        self.assertGreater(len(classes), 10)
        self.assertEqual([c for c in classes if not issubclass(c, errors.HotsnapError)], [])

    def test_one_start_of_a_qemu(self):
        """Programs that run beside this one are started in one place; see qemu/launch.py."""
        starts = {name for name in (*modules("hotsnap"), *modules("hotsnap_bench"),
                                    *modules("hotsnap_quickstart"), *modules("support"))
                  if "Popen(" in source_of(name)}
        self.assertEqual(starts, {"hotsnap.host.process"})
        callers = {name for name in (*modules("hotsnap"), *modules("support"))
                   if "process.start(" in source_of(name)}
        self.assertEqual(callers, {"hotsnap.qemu.launch"})

    def test_checksums_of_the_library_are_the_module_s(self):
        try:
            library = sums._library()  # pylint: disable=protected-access
        except OSError:
            self.skipTest("libxxhash is not installed")
        # From xxhsum(1) 0.8.1, as in test_operator_verify.py.
        self.assertEqual(library(b"x" * 4096), 0x854C667088EFE093)
        self.assertEqual(library(b"abc"), 0x78AF5F94892F3950)
        self.assertEqual(library(b"a\0b" * 99), sums.xxh3_64_intdigest(b"a\0b" * 99))


def folder_of(package):
    inside = "tests" if package == "support" else os.path.join("scripts", "python")
    return os.path.join(CHECKOUT, inside)


def modules(package):
    root = folder_of(package)
    for folder, _, names in os.walk(os.path.join(root, package)):
        for name in names:
            if name.endswith(".py") and not name.startswith("__"):
                yield os.path.relpath(os.path.join(folder, name), root)[:-3].replace(os.sep, ".")


def source_of(module):
    with open(os.path.join(folder_of(module.split(".")[0]), module.replace(".", os.sep) + ".py"),
              encoding="utf-8") as stream:
        return stream.read()


if __name__ == "__main__":
    unittest.main()
