# SPDX-License-Identifier: GPL-2.0-or-later
"""Each check of style finds what it looks for, and is silent about what is right."""

import os
import shutil
import tempfile
import unittest

from checks import layers, style
from checks.context import ROOT

SPDX = "SPDX-License-" + "Identifier: GPL-2.0-or-later"


class Texts(unittest.TestCase):
    def finds(self, check, path, text):
        self.assertTrue(list(check(path, text)), f"{path}: nothing found")

    def silent(self, check, path, text):
        self.assertEqual(list(check(path, text)), [])

    def test_licence_line(self):
        self.finds(style.missing_spdx, "a.cc", "int a;\n")
        self.finds(style.missing_spdx, "tool", "#!/bin/sh\ntrue\n")
        self.finds(style.missing_spdx, "a.py", f"\n\n# {SPDX}\n")
        self.silent(style.missing_spdx, "a.cc", f"// {SPDX}\nint a;\n")
        self.silent(style.missing_spdx, "tool", f"#!/bin/sh\n# {SPDX}\n")
        self.silent(style.missing_spdx, "README.md", "# Title\n")

    def test_length(self):
        self.finds(style.too_long, "a.cc", "\n" * 801)
        self.silent(style.too_long, "a.cc", "\n" * 800)

    def test_whitespace(self):
        self.finds(style.bad_whitespace, "a.md", "a \n")
        self.finds(style.bad_whitespace, "a.md", "a")
        self.silent(style.bad_whitespace, "a.md", "a\n")
        self.silent(style.bad_whitespace, "a.patch", " \n")

    def test_hosts(self):
        check = style.names_host(["mirror.example.org", "10.1.2.3"])
        self.finds(check, "a", "deb https://Mirror.Example.Org/debian\n")
        self.finds(check, "a", "http://10.1.2.3/\n")
        self.silent(check, "a", "mirrorxexample.org 10x1.2.3\n")

    def test_paths(self):
        check = style.names_path("/somewhere/here/")
        self.finds(check, "a", "see /somewhere/here/checkout\n")
        self.silent(check, "a", "see /somewhere/else\n")


class Tools(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        for name in (".clang-format", ".shellcheckrc"):
            shutil.copy(os.path.join(ROOT, name), self.folder)

    def put(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as stream:
            stream.write(text)
        return [name]

    @unittest.skipUnless(shutil.which("clang-format"), "clang-format is not installed")
    def test_clang_format(self):
        self.assertEqual(style.unformatted(self.folder, self.put("a.cc", "int a = 1;\n")), "")
        self.assertIn("a.cc", style.unformatted(self.folder, self.put("a.cc", "int  a=1 ;\n")))

    @unittest.skipUnless(shutil.which("pyflakes3"), "pyflakes3 is not installed")
    def test_pyflakes(self):
        self.assertEqual(style.python_faults(self.folder, self.put("a.py", "x = 1\n")), "")
        for text, complaint in (("def f(:\n", "a.py:1"), ("import os\n", "unused"),
                                ("print(x)\n", "undefined name 'x'")):
            self.assertIn(complaint, style.python_faults(self.folder, self.put("a.py", text)))

    @unittest.skipUnless(shutil.which("shellcheck"), "shellcheck is not installed")
    def test_shellcheck(self):
        good = self.put("a.sh", "#!/bin/sh\necho \"$1\"\n")
        self.assertEqual(style.shell_faults(self.folder, good), "")
        bad = self.put("a.sh", "#!/bin/sh\ncd $1\nrm -rf $2/*\n")
        self.assertIn("SC2086", style.shell_faults(self.folder, bad))


class Layers(unittest.TestCase):
    """Imports go downwards only."""

    GOOD = {"hotsnap/__init__.py": "", "hotsnap/cli.py": "from .commands import up\n",
            "hotsnap/commands/__init__.py": "",
            "hotsnap/commands/up.py": "from . import ls\nfrom ..model.state import State\n",
            "hotsnap/commands/ls.py": "import os\nfrom hotsnap.model import state\n",
            "hotsnap/model/__init__.py": "", "hotsnap/model/state.py": "import json\n",
            "hotsnap_bench/core.py": "from hotsnap import cli\n"}

    def faults(self, **changes):
        sources = {**self.GOOD, **{name.replace("__", "/") + ".py": text
                                   for name, text in changes.items()}}
        return layers.faults({f"scripts/python/{path}": text for path, text in sources.items()})

    def test_downwards(self):
        self.assertEqual(self.faults(), [])

    def test_upwards(self):
        for text in ("from ..commands import up\n", "from hotsnap.commands.up import x\n",
                     "import hotsnap.commands.up\n", "def f():\n    from ..commands import up\n"):
            with self.subTest(text):
                found = self.faults(hotsnap__model__state=text)
                self.assertIn("hotsnap.model.state: imports hotsnap.commands.up, which is in a "
                              "layer above it", found)

    def test_circle(self):
        found, = self.faults(hotsnap__commands__ls="from .up import x\n")
        self.assertEqual(found, "hotsnap.commands.up -> hotsnap.commands.ls -> "
                                "hotsnap.commands.up: a circle of imports")

    def test_what_is_not_shipped(self):
        found = self.faults(hotsnap__commands__ls="from hotsnap_bench.core import x\n")
        self.assertIn("hotsnap.commands.ls: imports hotsnap_bench.core; hotsnap may not use that "
                      "package", found)

    def test_module_without_a_layer(self):
        found, = self.faults(hotsnap__new="")
        self.assertIn("hotsnap.new: belongs to no layer", found)

    def test_a_check_that_sees_nothing(self):
        self.assertTrue(layers.faults({"scripts/other/hotsnap/cli.py": ""}))


if __name__ == "__main__":
    unittest.main()
