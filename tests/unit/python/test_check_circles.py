# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of dependencies find what they look for."""

import unittest

from checks import circles, symbols


class Overlay(unittest.TestCase):
    GOOD = {"a.h": "void a(void);\n", "a.c": '#include "a.h"\nvoid a(void)\n{\n}\n',
            "parts/b.c": '#include "../a.h"\nint b(int x)\n{\n    a();\n    return x;\n}\n',
            "parts/b.h": "int b(int x);\n"}

    def faults(self, **changes):
        texts = {**self.GOOD, **{name.replace("__", "/").replace("_c", ".c").replace("_h", ".h"):
                                 text for name, text in changes.items()}}
        return circles.overlay_faults({circles.OVERLAY + name: text
                                       for name, text in texts.items()})

    def test_no_circle(self):
        self.assertEqual(self.faults(), [])

    def test_circle_by_call(self):
        found, = self.faults(a_c='#include "a.h"\nvoid a(void)\n{\n    b(1);\n}\n')
        self.assertIn("a -> parts/b; parts/b -> a", found)

    def test_circle_by_include(self):
        found, = self.faults(a_h='#include "parts/b.h"\nvoid a(void);\n')
        self.assertIn("a circle among a, parts/b", found)

    def test_circle_by_object(self):
        found, = self.faults(parts__b_c="int table[3] = { 0 };\nint b(int x)\n{\n    a();\n}\n",
                             a_c="void a(void)\n{\n    table[0] = 1;\n}\n")
        self.assertIn("a circle among a, parts/b", found)

    def test_what_is_only_mentioned(self):
        self.assertEqual(self.faults(a_c='/* b() */\nvoid a(void)\n{\n    say("b");\n}\n'), [])

    def test_static_functions_belong_to_their_file(self):
        self.assertEqual(self.faults(a_c="static int b(int x)\n{\n    return x;\n}\n\n"
                                         "void a(void)\n{\n}\n",
                                     parts__b_c='#include "../a.h"\nvoid c(void)\n{\n}\n'), [])

    def test_a_check_that_sees_nothing(self):
        self.assertTrue(circles.overlay_faults({"elsewhere/a.c": ""}))


class Libraries(unittest.TestCase):
    def test_apart(self):
        self.assertEqual(list(circles.library_faults({
            "snapshot/save/a.cc": '#include "base/error.h"\n#include "guest/b.h"\n',
            "coordinator/peer.cc": '#include "wire/messages.h"\n',
            "tests/unit/x.cc": '#include "wire/messages.h"\n#include "guest/b.h"\n'})), [])

    def test_each_way(self):
        for path, name in (("snapshot/save/a.cc", "wire/messages.h"),
                           ("coordinator/peer.cc", "guest/page_ledger.h"),
                           ("coordinator/base/json.cc", "network/mac.h")):
            with self.subTest(path):
                self.assertEqual(list(circles.library_faults({path: f'#include "{name}"\n'})),
                                 [f"{path}: includes {name}, of another library"])


class Symbols(unittest.TestCase):
    BASE = "class Error : public std::runtime_error {\n"
    ERROR = "T hotsnap::Error::~Error()\n"
    MEMORY = ERROR + "T hotsnap::memory::Session::cut()\n"
    CLUSTER = ERROR + "T hotsnap::cluster::Peer::tick()\n"

    def faults(self, linked, **libraries):
        return list(symbols.faults(linked, self.BASE, {"snapshot": self.MEMORY,
                                                       "coordinator": self.CLUSTER, **libraries}))

    def test_good(self):
        self.assertEqual(self.faults(self.MEMORY + self.CLUSTER), [])

    def test_a_class_outside_of_the_namespaces(self):
        found, = self.faults(self.MEMORY + self.CLUSTER + "W hotsnap::Link::~Link()\n")
        self.assertIn("hotsnap::Link", found)

    def test_the_others_namespace(self):
        found, = self.faults(self.MEMORY + self.CLUSTER,
                             snapshot=self.MEMORY + "T hotsnap::network::Mac::parse()\n")
        self.assertIn("hotsnap::network", found)

    def test_a_check_that_sees_nothing(self):
        self.assertEqual(len(self.faults("T main\n")), 2)


if __name__ == "__main__":
    unittest.main()
