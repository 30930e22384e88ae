#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Members connected by TLS: a snapshot and a restore. Whoever cannot prove to be the member that
he says he is, is refused with one clear error on both sides, and does no harm."""

import ctypes
import json
import os
import socket
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.certificates import EXPIRED, MEMBER_OPTIONS, Authority, objects, shared_key
from support.chatter import Chatter
from support.cluster import Cluster, Member
from support.cutcheck import check_bundle
from support.outcome import Failed, Report, check, wait_until
from support.paths import PATIENCE
from support.vm import Vm
from support.wire import Wire
from support.workplace import Workplace
from hotsnap.host.netns import Network

HANDSHAKE_LIMIT = 10  # seconds, docs/formats/protocol.md
CLONE_NEWNET = 0x40000000


@contextmanager
def inside(network: Network) -> Iterator[None]:
    """Sockets that this thread opens meanwhile are in the network's namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, open(network.path, "rb") as there:
        check(libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


class Link(Wire):
    """One end of a connection between members, in this test's hands."""

    def closed(self, patience: float) -> bool:
        self.socket.settimeout(patience)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except (ssl.SSLError, ConnectionError):
            pass
        return True


def context(folder: Path | None, server: bool = False) -> ssl.SSLContext:
    """TLS with the certificate in `folder`, or with none. Takes whatever the other side shows."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if folder:
        made.load_cert_chain(folder / "server-cert.pem", folder / "server-key.pem")
    return made


def port_of(member: Member) -> int:
    return int(member.tcp.rpartition(":")[2])


def call(cluster: Cluster, name: str = "b") -> socket.socket:
    with inside(cluster.network):
        plain = socket.create_connection(("127.0.0.1", port_of(cluster[name])))
    plain.settimeout(PATIENCE)
    return plain


def refusals(vm: Vm) -> list[str]:
    return [line for line in vm.messages.read_text().splitlines() if "refused" in line]


def serves(cluster: Cluster, folder: Path) -> None:
    """The listener goes on."""
    link = Link(context(folder).wrap_socket(call(cluster)))
    link.hello("a")
    check(link.hear()["type"] == "HELLO", "the true member a is not served any more")
    link.socket.close()


class Lab:
    """Three members, and their certificates. b asks an authz object as well."""

    def __init__(self, place: Workplace):
        self.authority = Authority(place.path / "ours")
        self.others = Authority(place.path / "theirs")
        self.folders = {"a": self.authority.issue("a"), "c": self.authority.issue("c"),
                        # the common name does not count beside a DNS name
                        "b": self.authority.issue("b at its host", 'dns_name = "b"')}
        rules = json.dumps({"qom-type": "authz-list", "id": "who", "policy": "deny", "rules": [
            {"match": f"CN={name}", "policy": "allow"} for name in "ac"]})
        members = []
        for name in "abc":
            before = objects("x509", self.folders[name])
            options = MEMBER_OPTIONS
            if name == "b":
                before += ["-object", rules]
                options += ",tls-authz=who"
            members.append((name, "idle", {"tcp": True, "before_member": before,
                                           "member_options": options}))
        self.cluster = Cluster(place, members)

    def refused(self, pattern: str, attempt: Callable[[], str | None]) -> None:
        """`attempt` must be refused by b, which says so once, in its log; returns what the other
        side was told, if anything. b serves the others, and its guest goes on."""
        vm = self.cluster["b"].vm
        before = len(refusals(vm))
        told = attempt()
        wait_until(lambda: len(refusals(vm)) > before, "b says nothing")
        serves(self.cluster, self.folders["a"])
        said = refusals(vm)[before:]
        print(f"# {said[-1].rpartition('qemu-system-x86_64: ')[2]}; told: {told}")
        check(len(said) == 1 and pattern in said[0], f"b says {said}")
        check(told is None or pattern in told, f"the other side is told {told}")
        check(vm.running() and vm.phase() in ("idle", "committed", "aborted"), "b was harmed")

    def shows(self, folder: Path | None, name: str) -> Callable[[], str | None]:
        def attempt() -> str | None:
            link = Link(context(folder).wrap_socket(call(self.cluster)))
            link.hello(name)
            answer = link.hear()
            check(answer["type"] == "ERROR", f"b answers {answer}")
            check(link.closed(PATIENCE), "the connection is kept")
            return answer["reason"]
        return attempt

    def plain(self) -> None:
        link = Link(call(self.cluster))
        link.hello("a")
        check(link.closed(5), "the connection is kept")

    def old_version(self) -> None:
        made = context(self.folders["a"])
        with warnings.catch_warnings(action="ignore"):  # yes, it is old
            made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_1
        made.set_ciphers("ALL:@SECLEVEL=0")
        try:
            made.wrap_socket(call(self.cluster))
            raise Failed("TLS 1.1 is accepted")
        except (ssl.SSLError, ConnectionError):
            pass

    def second_version(self) -> None:
        made = context(self.folders["a"])
        made.maximum_version = ssl.TLSVersion.TLSv1_2
        link = Link(made.wrap_socket(call(self.cluster)))
        link.hello("a")
        check(link.hear()["type"] == "HELLO", "TLS 1.2 is refused")

    def stalls(self) -> None:
        link = Link(call(self.cluster))
        started = time.monotonic()
        serves(self.cluster, self.folders["a"])
        check(time.monotonic() - started < 2, "others wait for the handshake")
        check(link.closed(HANDSHAKE_LIMIT + 10), "the connection is kept")
        took = time.monotonic() - started
        check(abs(took - HANDSHAKE_LIMIT) < 3, f"it was closed after {took:.1f} s")

    def many_stall(self) -> None:
        """Strangers who do nothing cannot keep the members out."""
        strangers = [call(self.cluster) for _ in range(40)]
        started = time.monotonic()
        serves(self.cluster, self.folders["a"])
        check(time.monotonic() - started < 5, "a member has to wait for strangers")
        for stranger in strangers:
            stranger.close()

    def goes_to(self, pattern: str, serve: Callable[[socket.socket], None],
                limit: float = 8) -> None:
        """a leads a snapshot, and in b's place there is somebody else, who is not obeyed and is
        told nothing."""
        cluster = self.cluster
        with inside(cluster.network):
            listener = socket.create_server(("127.0.0.1", 0))
        failed: list[BaseException] = []

        def accept() -> None:
            try:
                with listener.accept()[0] as plain:
                    plain.settimeout(PATIENCE)
                    serve(plain)
            except BaseException as error:  # noqa: BLE001: the main thread raises it
                failed.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        started = time.monotonic()
        error = cluster.try_snapshot("elsewhere", members=[
            {"name": "b", "address": f"tcp:127.0.0.1:{listener.getsockname()[1]}"}])
        took = time.monotonic() - started
        thread.join()
        listener.close()
        print(f"# after {took:.1f} s: {error}")
        check(not failed, f"{failed}")
        check(error and pattern in error and "'b'" in error, f"error: {error}")
        check(took < limit, f"it took {took:.1f} s")
        check(cluster["a"].vm.running(), "a does not run")
        check(not list(cluster.bundles.glob("elsewhere*")), "a bundle is left")

    def impostor(self, folder: Path) -> Callable[[socket.socket], None]:
        def serve(plain: socket.socket) -> None:
            made = context(folder, server=True)
            made.load_verify_locations(self.authority.certificate)
            made.verify_mode = ssl.CERT_REQUIRED
            link = Link(made.wrap_socket(plain, server_side=True))
            answer = link.hear()
            check(answer["type"] == "ERROR" and "side that listens is refused" in answer["reason"],
                  f"it hears {answer}")
            check(link.closed(PATIENCE), "the connection is kept")
        return serve


class Relay:
    """Passes bytes on, and keeps them."""

    def __init__(self, network: Network, port: int):
        self.network, self.target, self.seen = network, port, b""
        with inside(network):
            self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _run(self) -> None:
        near, _ = self.listener.accept()
        with inside(self.network):
            far = socket.create_connection(("127.0.0.1", self.target))
        threading.Thread(target=self._pump, args=(far, near), daemon=True).start()
        self._pump(near, far)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.seen += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


WORDS = (b"HELLO", b"PREPARE", b'"type"')


def bytes_of_a_snapshot(cluster: Cluster, tag: str) -> bytes:
    with Relay(cluster.network, port_of(cluster["b"])) as relay:
        cluster.snapshot(tag, members=[{"name": "b", "address": relay.address}])
        return relay.seen


def wire(cluster: Cluster) -> None:
    seen = bytes_of_a_snapshot(cluster, "relayed")
    print(f"# {len(seen)} bytes, the first {seen[:6].hex()}")
    check(len(seen) > 2000 and seen[:2] == b"\x16\x03", "this is no TLS")
    check(not any(word in seen for word in WORDS), "the messages can be read")


def two_machines(place: Workplace, options: list[dict]) -> Cluster:
    """No guest runs in them."""
    cluster = Cluster(place, [(name, "idle", {"tcp": True, "memory": 64, **more})
                              for name, more in zip("ab", options)])
    for member in cluster.members:
        member.start()
    return cluster


def wire_without(report: Report) -> None:
    with Workplace() as place:
        cluster = two_machines(place, [{}, {}])

        def control() -> None:
            seen = bytes_of_a_snapshot(cluster, "relayed")
            check(all(word in seen for word in WORDS), "not even without TLS they can be read")

        report.run("tls-wire-control", control)


def shared(report: Report) -> None:
    with Workplace() as place:
        right = {"before_member": objects("psk", shared_key(place.path / "right")),
                 "member_options": MEMBER_OPTIONS}
        wrong = {"before_member": objects("psk", shared_key(place.path / "wrong")),
                 "member_options": MEMBER_OPTIONS}
        cluster = two_machines(place, [right, right])
        report.run("tls-psk", lambda: cluster.snapshot("t"))
        a, b = cluster.members

        def other_key() -> None:
            a.vm.kill()
            a.options = {**a.options, **wrong}
            a.start()
            error = cluster.try_snapshot("x")
            print(f"# {error}")
            check(error and "same key" in error, f"error: {error}")
            said = refusals(b.vm)
            check(len(said) == 1 and "same key" in said[0], f"b says {said}")

        def without() -> None:
            a.vm.kill()
            a.options = {**a.options, "before_member": [], "member_options": ""}
            a.start()
            error = cluster.try_snapshot("x")
            print(f"# {error}")
            check(error and "tls-creds-client" in error, f"error: {error}")

        def right_again() -> None:
            a.vm.kill()
            a.options = {**a.options, **right}
            a.start()
            cluster.snapshot("again")

        report.run("tls-psk-of-another-cluster", other_key)
        report.run("tls-member-without", without)
        report.run("tls-psk-again", right_again)


def configuration(report: Report) -> None:
    with Workplace() as place:
        network = place.network([])
        folder = Authority(place.path / "ours").issue("x")
        x509 = objects("x509", folder)
        key = objects("psk", shared_key(place.path / "key"))
        loose = ["-object", f"tls-creds-x509,id=tls-server,dir={folder},endpoint=server,"
                            "verify-peer=off"]
        anonymous = ["-object", "tls-creds-anon,id=tls-server,endpoint=server"]
        names = iter(range(100))

        def start(before: list[str], options: str) -> None:
            vm = Vm(place, f"x{next(names)}", ["-machine", "none", *before, "-object",
                                               f"hotsnap-member,id=hs0,name=x,{options}"],
                    network=network)
            vm.qmp.execute("quit")
            vm.process.wait(PATIENCE)

        def bad(pattern: str, before: list[str], options: str) -> None:
            try:
                start(before, options)
            except Failed as error:
                print(f"# {str(error).rpartition('qemu-system-x86_64: ')[2]}")
                check(pattern in str(error), str(error))
            else:
                raise Failed("it starts")

        def removed() -> None:
            """The member goes while a stranger keeps it in a handshake, and comes again."""
            vm = Vm(place, "gone", ["-machine", "none", *x509], network=network)
            for _ in range(3):
                vm.qmp.execute("object-add", {
                    "qom-type": "hotsnap-member", "id": "hs0", "name": "x",
                    "listen": "tcp:127.0.0.1:7070", "tls-creds": "tls-server",
                    "tls-creds-client": "tls-client"})
                with inside(network):
                    stranger = Link(socket.create_connection(("127.0.0.1", 7070)))
                stranger.socket.sendall(b"\x16\x03\x01")
                time.sleep(0.2)
                vm.qmp.execute("object-del", {"id": "hs0"})
                check(stranger.closed(5), "the connection is kept")
            vm.qmp.execute("quit")
            check(vm.process.wait(PATIENCE) == 0, "QEMU ended badly")

        report.run("tls-member-removed", removed)
        anywhere = "listen=tcp:0.0.0.0:7070"
        good = {"tls-listens-elsewhere": (x509, anywhere + MEMBER_OPTIONS),
                "tls-listens-elsewhere-psk": (key, anywhere + MEMBER_OPTIONS),
                "tls-listens-elsewhere-insecure": ([], anywhere + ",insecure=on"),
                "tls-listens-ipv6": (x509, "listen=tcp:[::]:7070" + MEMBER_OPTIONS),
                "tls-connects-only": (x509, f"listen=unix:{place.path}/x,"
                                            "tls-creds-client=tls-client")}
        for name, (before, options) in good.items():
            report.run(name, lambda b=before, o=options: start(b, o))
        wrong = {
            "without": ("could command this VM", [], anywhere),
            "insecure-off": ("could command this VM", [], anywhere + ",insecure=off"),
            "insecure-with-tls": ("contradicts", x509, anywhere + MEMBER_OPTIONS + ",insecure=on"),
            "unknown-object": ("'nothing' is no tls-creds", [], anywhere + ",tls-creds=nothing"),
            "wrong-end": ("for a server endpoint", x509, anywhere + ",tls-creds=tls-client"),
            "verify-peer-off": ("verify-peer=off", loose, anywhere + ",tls-creds=tls-server"),
            "anonymous": ("is no tls-creds-x509", anonymous, anywhere + ",tls-creds=tls-server"),
            "authz-of-keys": ("tls-authz says", key, anywhere + MEMBER_OPTIONS + ",tls-authz=w"),
            "client-only": ("needs tls-creds", x509,
                            "listen=tcp:127.0.0.1:7070,tls-creds-client=tls-client"),
            "unix": ("is a Unix socket", x509, f"listen=unix:{place.path}/y{MEMBER_OPTIONS}"),
            "name-of-host": ("is no IP address", x509, "listen=tcp:host:7070" + MEMBER_OPTIONS)}
        for name, (pattern, before, options) in wrong.items():
            report.run(f"tls-refuses-{name}", lambda p=pattern, b=before, o=options: bad(p, b, o))


def run(report: Report) -> None:
    with Workplace() as place:
        lab = Lab(place)
        cluster = lab.cluster
        cluster.up()
        Chatter.wait(cluster)

        def taken(tag: str, initiator: int = 0) -> None:
            cluster.snapshot(tag, initiator=initiator)
            result = check_bundle(cluster.bundles / tag)
            check(result.consistent, "; ".join(result.problems))

        def case(name: str, pattern: str, attempt: Callable[[], str | None]) -> None:
            report.run(f"tls-{name}", lambda: lab.refused(pattern, attempt))

        report.run("tls-snapshot", lambda: taken("t"))
        report.run("tls-wire", lambda: wire(cluster))
        ours, theirs = lab.authority, lab.others
        case("no-certificate", "No certificate was found", lab.shows(None, "a"))
        case("other-authority", "known issuer", lab.shows(theirs.issue("a"), "a"))
        case("expired", "expired", lab.shows(ours.issue("a", *EXPIRED), "a"))
        case("name-of-another", "does not prove that this is 'a'",
             lab.shows(lab.folders["c"], "a"))
        case("common-name-beside-dns-name", "does not prove that this is 'a'",
             lab.shows(ours.issue("a", 'dns_name = "z"'), "a"))
        case("wildcard", "does not prove that this is 'a'",
             lab.shows(ours.issue("a", 'dns_name = "*"'), "a"))
        case("not-on-the-list", "'who' does not allow CN=z", lab.shows(ours.issue("z"), "z"))
        case("plain", "TLS handshake failed", lab.plain)
        case("version-1.1", "unsupported version", lab.old_version)
        report.run("tls-version-1.2", lab.second_version)
        case("stalled", "no end of the TLS handshake", lab.stalls)
        report.run("tls-many-stalled", lab.many_stall)
        report.run("tls-leads-to-another",
                   lambda: lab.goes_to("does not match the hostname b",
                                       lab.impostor(lab.folders["c"])))
        report.run("tls-leads-to-other-authority",
                   lambda: lab.goes_to("known issuer", lab.impostor(theirs.issue("b"))))
        report.run("tls-leads-to-expired",
                   lambda: lab.goes_to("expired", lab.impostor(ours.issue("b", *EXPIRED))))
        report.run("tls-leads-to-plain",
                   lambda: lab.goes_to("TLS handshake failed",
                                       lambda plain: plain.sendall(b"\0\0\0\x02{}" * 4)))
        report.run("tls-leads-to-nothing",
                   lambda: lab.goes_to("no end of the TLS handshake",
                                       lambda plain: check(Link(plain).closed(20), "it is kept"),
                                       HANDSHAKE_LIMIT + 4))
        report.run("tls-snapshot-afterwards", lambda: taken("after", initiator=1))

        def brought_back() -> None:
            cluster.kill()
            cluster.restore("after", initiator=2)
            Chatter.wait_flow(cluster, 3).must_be_unharmed()

        report.run("tls-restore", brought_back)


main = Report()
configuration(main)
wire_without(main)
shared(main)
run(main)
main.exit()
