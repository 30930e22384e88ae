# SPDX-License-Identifier: GPL-2.0-or-later
"""snapshot --quiesce: file systems of the guests are frozen by the guest agent around the cut, so
that those on the frozen disks are clean, and applications that have hooks in the agent have written
what they wanted to.

A guest whose file systems stay frozen stands still, and nothing in it thaws them. So a process of
its own, the keeper, has them frozen and thaws them: when the command says so, when the command has
ended in any way, and at the latest when a time is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import HotsnapError
from ..model.bundle import Bundle
from ..model.notes import Quiesced
from ..model.state import State
from ..qemu.agent import Agent, AgentError, AgentGone, AgentSilent
from ..ui.output import say

SECONDS = 5.0  # until all are frozen, and from then on until they are thawed
PATIENCE = 60.0  # for a guest that froze late: so long its keeper tries to thaw it

_FREEZE, _THAW = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"


@dataclass
class Span:
    """A guest's frozen time, by the host's CLOCK_MONOTONIC: it was frozen already at the first
    instant, and still at the last."""

    filesystems: int
    frozen_ns: int
    thawed_ns: int = 0


class Frozen:
    """Guests that are frozen now."""

    def __init__(self, orders: int, answers: int, spans: dict[str, Span]):
        self.orders, self.answers, self.spans = orders, answers, spans
        self.error = ""

    def thaw(self) -> None:
        """Thaws all, once. What went wrong is in `error`; the keeper goes on trying then."""
        if self.orders < 0:
            return
        os.close(self.orders)
        self.orders = -1
        if not self.spans:  # they could not be frozen: the keeper has said so, and thaws some
            return
        told = _read(self.answers, PATIENCE)
        for name, thawed in told.get("thawed", {}).items():
            self.spans[name].thawed_ns = thawed
        self.error = told.get("error", "")

    def proved(self, saved: Bundle) -> dict[str, Quiesced]:
        """What a bundle's notes say. HotsnapError if a member was not frozen while its disks were
        switched: the snapshot is as after a power failure then."""
        found = {}
        for member in saved.members:
            span = self.spans.get(member.name)
            if span is None:
                continue
            if not span.frozen_ns <= member.cut.begin_ns <= member.cut.end_ns <= span.thawed_ns:
                raise HotsnapError(
                    f"snapshot {saved.tag!r} is complete, but only as after a power failure: member "
                    f"{member.name} was not frozen any more at the cut; take another one, with a "
                    "longer --quiesce-timeout")
            found[member.name] = Quiesced(span.filesystems,
                                          round((span.thawed_ns - span.frozen_ns) / 1e6, 3))
        return found


@contextlib.contextmanager
def frozen(agents: Mapping[str, str], seconds: float) -> Iterator[Frozen]:
    """Freezes the guests with these agents, by members' names, each within `seconds`, and no longer
    than that again. HotsnapError if one of them cannot be frozen; then none is."""
    if not agents:
        yield Frozen(-1, -1, {})
        return
    read_orders, orders = os.pipe()
    answers, write_answers = os.pipe()
    child = os.fork()
    if not child:
        os.close(orders)
        os.close(answers)
        _keeper(agents, seconds, read_orders, write_answers)
    os.close(read_orders)
    os.close(write_answers)
    held = Frozen(orders, answers, {})
    try:
        told = _read(answers, seconds + PATIENCE)
        if "frozen" not in told:
            raise HotsnapError(told.get("error", "the process that freezes the guests has ended"))
        held.spans = {name: Span(*span) for name, span in told["frozen"].items()}
        yield held
    finally:
        held.thaw()
        if held.error:
            say(f"warning: {held.error}")
        os.close(answers)
        # One that still tries to thaw a guest goes on by itself.
        os.waitpid(child, os.WNOHANG)


def _read(answers: int, seconds: float) -> dict[str, Any]:
    """A line of the keeper; empty if it has ended, or says nothing for so long."""
    data, deadline = b"", time.monotonic() + seconds
    while not data.endswith(b"\n"):
        if not select.select([answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return {}
        piece = os.read(answers, 1 << 16)
        if not piece:
            return {}
        data += piece
    return json.loads(data)


# --- the keeper's process ------------------------------------------------------------------------

def _keeper(agents: Mapping[str, str], seconds: float, orders: int, answers: int) -> NoReturn:
    try:
        os.setsid()
        # Nobody waits for the ends of these, and no lock of the command is held by this process.
        _close_all_but(orders, answers)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # the command has ended, and nobody reads
            _keep(agents, seconds, orders, answers)
    finally:
        os._exit(0)


def _close_all_but(*handles: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) not in handles:
            with contextlib.suppress(OSError):  # that of the listing is closed already
                os.close(int(entry))


def _tell(answers: int, **words: Any) -> None:
    os.write(answers, json.dumps(words).encode() + b"\n")


def _keep(agents: Mapping[str, str], seconds: float, orders: int, answers: int) -> None:
    names = list(agents)
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        found = dict(zip(names, pool.map(lambda name: _freeze(agents[name], seconds), names)))
        problems = [f"member {name}: {result}" for name, result in found.items()
                    if isinstance(result, AgentError)]
        if problems:
            with contextlib.suppress(OSError):
                _tell(answers, error=problems[0])
            perhaps = [name for name, result in found.items()
                       if not isinstance(result, AgentError) or isinstance(result, AgentSilent)]
            list(pool.map(lambda name: _thaw(agents[name]), perhaps))
            return
        try:
            _tell(answers, frozen={name: [span.filesystems, span.frozen_ns]
                                   for name, span in found.items() if isinstance(span, Span)})
            select.select([orders], [], [], seconds)  # the command closes it, or ends
        finally:
            ends = dict(zip(names, pool.map(lambda name: _thaw(agents[name]), names)))
    late = [f"member {name}: {end}" for name, end in ends.items() if isinstance(end, AgentError)]
    _tell(answers, thawed={name: end for name, end in ends.items() if isinstance(end, int)},
          **({"error": late[0]} if late else {}))


def _freeze(path: str, seconds: float) -> Span | AgentError:
    try:
        with Agent(path, seconds) as agent:
            count = agent.execute(_FREEZE, seconds)
            if not isinstance(count, int) or count < 1:
                return AgentError("its guest agent has frozen no file system")
            return Span(count, time.clock_gettime_ns(time.CLOCK_MONOTONIC))
    except AgentSilent:
        return AgentSilent("its guest agent does not answer in time: start qemu-guest-agent in the "
                           "guest, or give it more time with --quiesce-timeout")
    except AgentError as error:
        return AgentError(f"its guest agent cannot freeze: {error}")


def _thaw(path: str) -> int | AgentError:
    """When it was still frozen."""
    begun = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    problem = AgentError("its guest agent does not answer")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with Agent(path, deadline - time.monotonic()) as agent:
                agent.execute(_THAW, deadline - time.monotonic())
            return begun
        except AgentGone:
            return AgentError("its QEMU has ended")
        except AgentError as error:
            problem = AgentError(f"its file systems may be frozen: its guest agent does not thaw "
                                 f"them: {error}")
            time.sleep(0.2)
    return problem


def sockets(state: State, names: Iterable[str]) -> dict[str, str]:
    """The agents of these members. HotsnapError if one has none."""
    found = {}
    for name in sorted(names):
        if not state.cluster.member(name).agent:
            raise HotsnapError(f"member {name} has no guest agent: write 'agent = true' in its "
                               "[[member]], and start it anew; or leave --quiesce out")
        found[name] = state.paths(name).agent
    return found
