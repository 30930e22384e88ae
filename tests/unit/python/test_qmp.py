# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP client, against a server that is scripted line by line."""

import json
import os
import socket
import tempfile
import threading
import unittest

from hotsnap.qemu.qmp import Qmp, QmpClosed, QmpError, QmpTimeout

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 13}}}}


class Server:
    """Greets, negotiates, then answers each command with what `answers` holds for it: a list of
    messages, sent in order. "$id" as a message's id stands for the command's."""

    def __init__(self, path, answers, greeting=GREETING, before=()):
        self.answers = {"qmp_capabilities": [{"return": {}, "id": "$id"}], **answers}
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(1)
        self.greetings = [*before, greeting]
        self.seen = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        connection, _ = self.socket.accept()
        with connection, connection.makefile("rw") as stream:
            for greeting in self.greetings:
                stream.write(json.dumps(greeting) + "\r\n")
            stream.flush()
            for line in stream:
                request = json.loads(line)
                self.seen.append(request)
                answer = self.answers[request["execute"]]
                if answer == "close":
                    return
                for message in answer:
                    if message.get("id") == "$id":
                        message = {**message, "id": request["id"]}
                    stream.write(json.dumps(message) + "\r\n")
                stream.flush()

    def close(self):
        self.socket.close()


class QmpTest(unittest.TestCase):
    def start(self, answers=None, **kwargs):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "qmp")
        server = Server(path, answers or {}, **kwargs)
        self.addCleanup(server.close)
        return path, server

    def connect(self, answers=None, **kwargs):
        path, self.server = self.start(answers, **kwargs)
        client = Qmp.connect(path, timeout=5)
        self.addCleanup(client.close)
        return client

    def test_greeting_and_return(self):
        client = self.connect({"query-status": [{"return": {"status": "running"}, "id": "$id"}]})
        self.assertEqual(client.greeting, GREETING["QMP"])
        self.assertEqual(client.execute("query-status"), {"status": "running"})

    def test_event_before_the_greeting(self):
        client = self.connect(before=[{"event": "RESUME"}, {"event": "STOP"}])
        self.assertEqual(client.greeting, GREETING["QMP"])
        self.assertEqual(client.events(), [])

    def test_arguments_are_sent(self):
        client = self.connect({"x": [{"return": {}, "id": "$id"}]})
        client.execute("x", {"a": 1})
        self.assertEqual(self.server.seen[-1]["arguments"], {"a": 1})

    def test_error(self):
        client = self.connect({"x": [{"error": {"class": "GenericError", "desc": "no"},
                                      "id": "$id"}]})
        with self.assertRaises(QmpError) as caught:
            client.execute("x")
        self.assertEqual((caught.exception.cls, str(caught.exception)), ("GenericError", "x: no"))

    def test_events_before_the_reply_are_kept_in_order(self):
        client = self.connect({"stop": [{"event": "A"}, {"event": "B", "data": {"n": 1}},
                                        {"return": {}, "id": "$id"}, {"event": "C"}]})
        client.execute("stop")
        self.assertEqual(client.wait_event("C", 5)["event"], "C")
        self.assertEqual([event["event"] for event in client.events()], ["A", "B"])
        self.assertEqual(client.events(), [])

    def test_wait_for_an_event_with_data(self):
        client = self.connect({"x": [{"return": {}, "id": "$id"},
                                     {"event": "M", "data": {"status": "active"}},
                                     {"event": "M", "data": {"status": "done", "n": 2}}]})
        client.execute("x")
        self.assertEqual(client.wait_event("M", 5, {"status": "done"})["data"]["n"], 2)
        found = client.wait_event(["N", "M"], 5, lambda data: data["status"] == "active")
        self.assertEqual(found["data"], {"status": "active"})

    def test_timeouts(self):
        client = self.connect({"slow": [], "x": [{"return": 7, "id": "$id"}]})
        with self.assertRaises(QmpTimeout):
            client.wait_event("NEVER", 0.05)
        with self.assertRaises(QmpTimeout):
            client.execute("slow", timeout=0.05)
        self.assertEqual(client.execute("x"), 7)

    def test_late_answer_is_not_taken_for_the_next_ones(self):
        client = self.connect({"slow": [], "x": [{"return": "slow's", "id": 2},
                                                 {"return": "x's", "id": "$id"}]})
        with self.assertRaises(QmpTimeout):
            client.execute("slow", timeout=0.05)
        self.assertEqual(client.execute("x"), "x's")

    def test_closed(self):
        client = self.connect({"quit": "close"})
        with self.assertRaises(QmpClosed):
            client.execute("quit")

    def test_nobody_listens(self):
        path = os.path.join(tempfile.gettempdir(), "hotsnap-test-no-such-socket")
        with self.assertRaises(QmpClosed):
            Qmp.connect(path, timeout=0.1)
        with self.assertRaisesRegex(QmpClosed, "ended before"):
            Qmp.connect(path, timeout=30, alive=lambda: False)

    def test_not_a_qmp_server(self):
        path, _ = self.start(greeting={"hello": "world"})
        with self.assertRaises(QmpClosed):
            Qmp.connect(path, timeout=5)


if __name__ == "__main__":
    unittest.main()
