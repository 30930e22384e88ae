# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests are frozen around the cut, and thawed whatever happens: agents that are made up here, which
answer, refuse, are slow or silent; commands that are killed."""

import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
import time
import unittest
from types import SimpleNamespace
from unittest import mock

from checks import process
from hotsnap.commands import quiesce, snapshot_options
from hotsnap.errors import HotsnapError, UsageError
from hotsnap.qemu.agent import Agent, AgentError, AgentSilent
from test_operator_restore import in_child


class Guest:
    """A guest agent behind a socket, as QEMU gives it to one client after the other. It goes on with a
    command that its client did not wait for, as the real one does."""

    def __init__(self, path, slow=0.0, refuses="", silent=False, junk=b""):
        self.path, self.slow, self.refuses, self.silent, self.junk = path, slow, refuses, silent, junk
        self.frozen = False
        self.log = []  # (command, when it was carried out)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def end(self):
        self.server.shutdown(socket.SHUT_RDWR)  # an accept() under way ends as well
        self.server.close()
        os.unlink(self.path)

    def serve(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                if self.junk:
                    client.sendall(self.junk)
                for line in client.makefile("rb"):
                    self.answer(client, line)

    def answer(self, client, line):
        request = json.loads(line.lstrip(b"\xff"))
        command = request["execute"]
        if self.silent:
            return
        if command == "guest-sync-delimited":
            client.sendall(b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode()
                           + b"\n")
            return
        if command == "guest-fsfreeze-freeze":
            time.sleep(self.slow)
        if command == self.refuses:
            client.sendall(b'{"error": {"class": "GenericError", "desc": "not allowed"}}\n')
            return
        self.frozen = command == "guest-fsfreeze-freeze"
        self.log.append((command, time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
        client.sendall(b'{"return": 3}\n')


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hs-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.guests = []
        process.adopt_orphans()
        self.addCleanup(self.no_keeper_is_left)

    def no_keeper_is_left(self):
        """Once the guests have ended there is nothing to thaw."""
        deadline = time.monotonic() + 20
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    self.assertLess(time.monotonic(), deadline, "a keeper goes on")
                    time.sleep(0.05)
            except ChildProcessError:
                return

    def guest(self, name, **how):
        guest = Guest(os.path.join(self.folder, name), **how)
        self.addCleanup(guest.end)
        self.guests.append(guest)
        return guest

    def agents(self):
        return {os.path.basename(guest.path): guest.path for guest in self.guests}

    def until(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)


class Protocol(Case):
    def test_what_another_client_left_is_passed_over(self):
        self.guest("a", junk=b'{"return": {"half": \n{"return": 7}\n')
        with Agent(self.agents()["a"], 5) as agent:
            self.assertEqual(agent.execute("guest-fsfreeze-freeze", 5), 3)

    def test_errors(self):
        self.guest("a", refuses="guest-fsfreeze-freeze")
        self.guest("b", silent=True)
        with Agent(self.agents()["a"], 5) as agent, \
                self.assertRaisesRegex(AgentError, "freeze: not allowed"):
            agent.execute("guest-fsfreeze-freeze", 5)
        with self.assertRaises(AgentSilent):
            Agent(self.agents()["b"], 0.2)
        with self.assertRaisesRegex(AgentError, "No such file"):
            Agent(os.path.join(self.folder, "none"), 1)


class Freezing(Case):
    def test_all_are_frozen_inside_and_thawed_after(self):
        for name in "abc":
            self.guest(name)
        with quiesce.frozen(self.agents(), 5) as held:
            self.assertTrue(all(guest.frozen for guest in self.guests))
        self.assertFalse(any(guest.frozen for guest in self.guests))
        self.assertEqual(held.error, "")
        for guest in self.guests:
            span = held.spans[os.path.basename(guest.path)]
            (_, frozen), (_, thawed) = guest.log
            self.assertLess(frozen, span.frozen_ns)
            self.assertLess(span.thawed_ns, thawed)
            self.assertEqual(span.filesystems, 3)

    def test_one_that_refuses(self):
        self.guest("a")
        self.guest("b", refuses="guest-fsfreeze-freeze")
        with self.assertRaisesRegex(HotsnapError, "member b: its guest agent cannot freeze: .*not "
                                                  "allowed"), \
                quiesce.frozen(self.agents(), 5):
            self.fail("it went on")
        self.until(lambda: len(self.guests[0].log) == 2)
        self.assertFalse(self.guests[0].frozen)

    def test_one_that_is_late_is_thawed_when_it_froze_at_last(self):
        self.guest("a")
        self.guest("b", slow=3)
        began = time.monotonic()
        with self.assertRaisesRegex(HotsnapError, "member b: .*does not answer in time.*"
                                                  "--quiesce-timeout"), \
                quiesce.frozen(self.agents(), 0.4):
            self.fail("it went on")
        self.assertLess(time.monotonic() - began, 2.5, "it waited for the guest to be thawed")
        self.until(lambda: [command for command, _ in self.guests[1].log]
                   == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"])
        self.until(lambda: not any(guest.frozen for guest in self.guests))

    def test_the_command_may_fail_or_be_killed(self):
        self.guest("a")
        with self.assertRaises(KeyError), quiesce.frozen(self.agents(), 5):
            raise KeyError("x")
        self.assertFalse(self.guests[0].frozen)
        for number in (signal.SIGKILL, signal.SIGTERM):
            def work(number=number):
                with quiesce.frozen(self.agents(), 30):
                    os.kill(0 if number == signal.SIGTERM else os.getpid(), number)
                    time.sleep(30)

            def alone(work=work):
                os.setpgid(0, 0)
                work()

            begun = len(self.guests[0].log)
            self.assertEqual(os.WTERMSIG(in_child(alone)), number)
            self.until(lambda begun=begun: len(self.guests[0].log) == begun + 2, 10)
            self.assertFalse(self.guests[0].frozen)

    def test_no_longer_than_that(self):
        self.guest("a")
        with quiesce.frozen(self.agents(), 0.5) as held:
            self.until(lambda: not self.guests[0].frozen, 10)
            cut = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            held.thaw()
            saved = SimpleNamespace(tag="t", members=[SimpleNamespace(
                name="a", cut=SimpleNamespace(begin_ns=cut, end_ns=cut + 1))])
            with self.assertRaisesRegex(HotsnapError, "complete, but only as after a power failure: "
                                                      "member a was not frozen"):
                held.proved(saved)

    def test_what_is_proved(self):
        self.guest("a")
        with quiesce.frozen(self.agents(), 5) as held:
            cut = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        saved = SimpleNamespace(tag="t", members=[
            SimpleNamespace(name=name, cut=SimpleNamespace(begin_ns=cut, end_ns=cut + 1))
            for name in "ab"])  # b takes part, and has no disk in the group
        self.assertEqual({name: one.filesystems for name, one in held.proved(saved).items()},
                         {"a": 3})

    def test_no_lock_of_the_command_is_kept(self):
        """By a keeper that still tries to thaw a guest."""
        self.guest("a", slow=3)
        read, write = os.pipe()
        with self.assertRaises(HotsnapError), quiesce.frozen(self.agents(), 0.2):
            pass
        os.close(write)
        with open(read, "rb") as stream:
            began = time.monotonic()
            self.assertEqual(stream.read(), b"")  # no other process has the writing end
            self.assertLess(time.monotonic() - began, 2)

    def test_a_guest_that_is_not_thawed_is_told(self):
        self.guest("a", refuses="guest-fsfreeze-thaw")
        with mock.patch.object(quiesce, "PATIENCE", 0.5), \
                quiesce.frozen(self.agents(), 5) as held, \
                mock.patch.object(quiesce, "say") as said:
            with mock.patch.object(quiesce, "PATIENCE", 5):
                held.thaw()
            self.assertRegex(held.error, "member a: its file systems may be frozen: .*not allowed")
        said.assert_not_called()

    def test_without_agents_there_is_nothing_to_do(self):
        with quiesce.frozen({}, 0) as held, mock.patch.object(os, "fork") as fork:
            held.thaw()
        fork.assert_not_called()
        self.assertEqual(held.proved(SimpleNamespace(tag="t", members=[
            SimpleNamespace(name="a", cut=None)])), {})

    def test_a_member_without_an_agent(self):
        state = SimpleNamespace(
            cluster=SimpleNamespace(member=lambda name: SimpleNamespace(agent=name == "a")),
            paths=lambda name: SimpleNamespace(agent="/x"))
        with self.assertRaisesRegex(HotsnapError, "member b has no guest agent: write 'agent = true'"):
            quiesce.sockets(state, ["a", "b"])
        self.assertEqual(quiesce.sockets(state, ["a"]), {"a": "/x"})


class CommandLine(unittest.TestCase):
    def chosen(self, *words):
        import argparse  # pylint: disable=import-outside-toplevel
        parser = argparse.ArgumentParser()
        snapshot_options.add_group_to(parser)
        snapshot_options.add_to(parser)
        return snapshot_options.chosen(parser.parse_args(words))

    def test_options(self):
        self.assertEqual(self.chosen("--group", "g", "--quiesce"), {"quiesce": 5.0})
        self.assertEqual(self.chosen("--group", "g", "--quiesce", "--quiesce-timeout", "500ms"),
                         {"quiesce": 0.5})
        for words in (["--quiesce"], ["--group", "g", "--quiesce-timeout", "1s"]):
            with self.assertRaises(UsageError):
                self.chosen(*words)


if __name__ == "__main__":
    unittest.main()
