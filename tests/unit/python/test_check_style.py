# SPDX-License-Identifier: GPL-2.0-or-later
"""Each check of style finds what it looks for, and is silent about what is right."""

import os
import shutil
import tempfile
import unittest

from checks import style
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


if __name__ == "__main__":
    unittest.main()
