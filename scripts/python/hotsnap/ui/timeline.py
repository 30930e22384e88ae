# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of a cluster snapshot: when each member paused, what each pause consisted of, how the
epoch went, and in which manner pages were saved. It is drawn from the manifest alone."""

from __future__ import annotations

from collections.abc import Callable

from ..model import restore_line
from ..model.bundle import Bundle, SavedMember
from .drawing import INK, MUTED, PALETTE, PANEL, RULE, Drawing, number, text_width, ticks

WIDTH = 1000
LEFT, RIGHT = 130, 40
BESIDE = 80  # room for what stands at the right of the longest bar
ROW, BAR = 34, 18
MANNERS = (("background", "background copy"), ("guest_write", "guest write"),
           ("dma_write", "DMA write"), ("kvm_write", "KVM write"),
           ("precopy", "copy before the cut"))
MOST_WORDS = 400  # drawn in the restore line; more would hide each other
PAUSE_COLOR, BACKOFF_COLOR = "#30638e", "#d1495b"


def draw(bundle: Bundle, path: str) -> None:
    """Write the picture to `path`."""
    picture = Drawing(WIDTH, f"Cluster snapshot {bundle.tag}")
    y = _head(picture, bundle)
    y = _pauses(picture, bundle, y)
    y = _steps(picture, bundle, y)
    y = _epoch(picture, bundle, y)
    if not bundle.only_disks:
        y = _pages(picture, bundle, y)
        y = _restore_line(picture, bundle, y)
    picture.save(path, y + 10)


def _head(picture: Drawing, bundle: Bundle) -> float:
    manifest = bundle.manifest
    picture.text(30, 42, bundle.tag, 22, bold=True)
    picture.text(30, 64, f"{len(bundle.members)} members, led by {manifest.initiator}  ·  "
                         f"{manifest.created}  ·  epoch {manifest.epoch}", 12, MUTED)
    backoff, hold = bundle.backoff_max_ms(), bundle.hold_max_ms()
    figures = ((f"{hold:.2f} ms", "longest hold of disk requests"),
               (str(sum(1 for _ in bundle.layers())), "disks")) if hold is not None else ((f"{bundle.downtime_max_ms():.2f} ms", "longest pause"),
               ("unknown" if backoff is None else f"{backoff:.2f} ms", "longest TCP backoff"),
               (str(bundle.frames()), "frames of channel state"), (str(bundle.lost()), "lost"))
    x = float(WIDTH - RIGHT)
    for value, label in reversed(figures):
        picture.text(x, 42, value, 18, anchor="end", bold=True)
        picture.text(x, 60, label, 11, MUTED, anchor="end")
        x -= max(text_width(value, 18), text_width(label, 11)) + 26
    return 92


def _panel(picture: Drawing, y: float, title: str, note: str, height: float) -> float:
    """Background and heading of a panel; returns the y of its first row."""
    picture.rect(16, y, WIDTH - 32, height, PANEL, 8)
    picture.heading(30, y + 24, title, note)
    return y + 44


def _axis(picture: Drawing, low: float, high: float, top: float, bottom: float,
          unit: str) -> Callable[[float], float]:
    """Grid and labels; returns what maps a value to x."""
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return LEFT + (value - low) / span * (WIDTH - LEFT - RIGHT - BESIDE)

    marks = list(ticks(low, high))
    for mark in marks:
        picture.line(at(mark), top, at(mark), bottom, RULE)
        label = number(mark) + (f" {unit}" if mark == marks[-1] else "")
        picture.text(at(mark), bottom + 15, label, 10, MUTED, "middle")
    return at


def _name(picture: Drawing, y: float, name: str) -> None:
    shown = name if len(name) <= 14 else name[:13] + "…"
    picture.text(LEFT - 12, y + BAR - 5, shown, 12, INK, "end")


def _pauses(picture: Drawing, bundle: Bundle, y: float) -> float:
    members = bundle.members
    comparable = bundle.manifest.cut.comparable
    first = min(m.cut.begin_ns for m in members)

    def span(member: SavedMember) -> tuple[float, float]:
        begin = (member.cut.begin_ns - first) / 1e6 if comparable else 0.0
        return begin, begin + member.cut.ms

    end = max(span(m)[1] for m in members)
    held = bundle.only_disks
    note = ("from the first request that was held to the last one released" if held else
            "from the first suspend to the last resume") if comparable else (
                "members were on different hosts: each begins at its own zero")
    height = 44 + 22 + ROW * len(members) + 34
    top = _panel(picture, y, "When each member held its disk requests" if held else
                 "When each member paused", note, height)
    bottom = top + 22 + ROW * len(members)
    at = _axis(picture, 0, end, top + 16, bottom, "ms")
    if comparable:
        picture.line(at(0), top + 8, at(end), top + 8, BACKOFF_COLOR, 1.5)
        for edge in (0, end):
            picture.line(at(edge), top + 2, at(edge), top + 14, BACKOFF_COLOR, 1.5)
        picture.text(at(end) + 8, top + 12, f"{end:.2f} ms", 11, BACKOFF_COLOR)
    for row, member in enumerate(members):
        line = top + 26 + ROW * row
        begin, stop = span(member)
        _name(picture, line, member.name)
        picture.rect(at(begin), line, max(at(stop) - at(begin), 2), BAR, PAUSE_COLOR, 3,
                     tip=f"{member.name}: {begin:.3f} to {stop:.3f} ms")
        cause = {"red-frame": "by a red frame", "snapshot": "by the message"}.get(
            member.cause or "", "")
        label = f"{stop - begin:.2f} ms {cause}".rstrip()
        room = text_width(label, 11) + 16
        if at(stop) + room < WIDTH - 30:
            picture.text(at(stop) + 8, line + 13, label, 11, MUTED)
        elif at(stop) - at(begin) > room:
            picture.text(at(stop) - 8, line + 13, label, 11, "#ffffff", "end")
        else:
            picture.text(at(begin) - 8, line + 13, label, 11, MUTED, "end")
    return y + height + 14


def _steps(picture: Drawing, bundle: Bundle, y: float) -> float:
    names: list[str] = []
    for member in bundle.members:
        names += [step.name for step in member.cut.steps if step.name not in names]
    if not names:
        return y
    color = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    longest = max(max(sum(step.us for step in m.cut.steps) / 1000, m.cut.ms)
                  for m in bundle.members)
    # A first picture, which is thrown away, tells how many lines the legend takes.
    keys = [(name, color[name]) for name in names]
    legend_height = Drawing(WIDTH, "").legend(LEFT, 0, keys, WIDTH - 40)
    height = 44 + ROW * len(bundle.members) + 34 + legend_height
    top = _panel(picture, y, f"What each {'hold' if bundle.only_disks else 'pause'} consisted of",
                 "each from its own begin; what no step accounts for is left blank", height)
    bottom = top + ROW * len(bundle.members)
    at = _axis(picture, 0, longest, top - 4, bottom, "ms")
    for row, member in enumerate(bundle.members):
        line = top + 4 + ROW * row
        _name(picture, line, member.name)
        picture.rect(at(0), line, at(member.cut.ms) - at(0), BAR, "#ffffff", 2)
        begin = 0.0
        for step in member.cut.steps:
            stop = begin + step.us / 1000
            picture.rect(at(begin), line, at(stop) - at(begin), BAR, color[step.name],
                         tip=f"{member.name}: {step.name} {step.us:.0f} us")
            begin = stop
        picture.text(at(max(begin, member.cut.ms)) + 8, line + 13,
                     f"{member.cut.ms:.2f} ms", 11, MUTED)
    picture.legend(LEFT, bottom + 38, keys, WIDTH - 40)
    return y + height + 14


def _epoch(picture: Drawing, bundle: Bundle, y: float) -> float:
    instants = bundle.manifest.timeline
    if len(instants) < 2:
        return y
    first, last = instants[0].us, instants[-1].us
    spans = [(now.phase, (now.us - first) / 1000, (then.us - first) / 1000)
             for now, then in zip(instants, instants[1:])]
    keys = [(f"{phase} {stop - begin:.1f} ms", PALETTE[i % len(PALETTE)])
            for i, (phase, begin, stop) in enumerate(spans)]
    legend_height = Drawing(WIDTH, "").legend(LEFT, 0, keys, WIDTH - 40)
    height = 44 + ROW + 34 + legend_height
    top = _panel(picture, y, "How the epoch went",
                 f"on {bundle.manifest.initiator}; all members run but for their pauses", height)
    at = _axis(picture, 0, (last - first) / 1000, top - 4, top + ROW, "ms")
    for (phase, begin, stop), (_, color) in zip(spans, keys):
        picture.rect(at(begin), top + 4, at(stop) - at(begin), BAR, color,
                     tip=f"{phase}: {begin:.1f} to {stop:.1f} ms")
    picture.legend(LEFT, top + ROW + 38, keys, WIDTH - 40)
    return y + height + 14


def _pages(picture: Drawing, bundle: Bundle, y: float) -> float:
    height = 44 + ROW * len(bundle.members) + 34 + 18
    top = _panel(picture, y, "In which manner pages were saved",
                 "pages that are not zero in full color, zero pages pale; of 4 KiB each", height)
    bottom = top + ROW * len(bundle.members)
    precopy = bundle.manifest.mode == "precopy"
    manners = MANNERS if precopy else MANNERS[:-1]
    largest = max(m.memory.pages.total for m in bundle.members if m.memory)
    at = _axis(picture, 0, largest, top - 4, bottom, "pages")
    for row, member in enumerate(bundle.members):
        line = top + 4 + ROW * row
        assert member.memory
        pages = member.memory.pages
        _name(picture, line, member.name)
        picture.rect(at(0), line, at(pages.total) - at(0), BAR, PALETTE[0], 0,
                     tip=f"{member.name}: {pages.zero} zero pages", opacity=0.18)
        begin = 0
        # Zero pages are nearly all of the copy that looks at all pages first.
        walk = "precopy" if precopy else "background"
        # Writes first, so that they are seen beside the far larger background copy.
        for key, label in reversed(manners):
            count = getattr(pages, key)
            if key == walk:
                count = max(0, count - pages.zero)
            picture.rect(at(begin), line, at(begin + count) - at(begin), BAR,
                         PALETTE[[k for k, _ in MANNERS].index(key)],
                         tip=f"{member.name}: {label} {getattr(pages, key)}")
            begin += count
        picture.text(at(pages.total) + 8, line + 13, f"{pages.by_writes} by writes", 11, MUTED)
    picture.legend(LEFT, bottom + 38, [(label, PALETTE[i]) for i, (_, label) in
                                       enumerate(manners)], WIDTH - 40)
    return y + height + 14


def _restore_line(picture: Drawing, bundle: Bundle, y: float) -> float:
    """Loads, starts and first words of a restore, members in the order in which they load."""
    plan = restore_line.plan(bundle)
    if not plan:
        return y
    order = [(member, group) for group in plan.groups for member in group.members]
    row = {member: number for number, (member, _) in enumerate(order)}
    start = {member: group.start_us / 1000 for member, group in order}
    end = max(start.values()) * 1.15
    rate = restore_line.BYTES_PER_SECOND / 1e6
    height = 44 + ROW * len(order) + 34
    top = _panel(picture, y, "Restore line", f"if {rate:.0f} MB are loaded in a second: bars are "
                 "loads, dots are starts, lines are first words to other members", height)
    bottom = top + ROW * len(order)
    at = _axis(picture, 0, end, top - 4, bottom, "ms")

    def middle(member: int) -> float:
        return top + 4 + ROW * row[member] + BAR / 2

    words = sorted((start[m] + us / 1000, m, to) for m, _ in order
                   for to, us in plan.speakers[m].contacts)
    for when, member, to in words[:MOST_WORDS]:
        if when <= end and to != member:
            picture.line(at(when), middle(member), at(when), middle(to), BACKOFF_COLOR, 1, "3 2")
    for member, group in order:
        line, name = middle(member) - BAR / 2, bundle.members[member].name
        _name(picture, line, name)
        begin, ready = group.begin_us / 1000, group.ready_us / 1000
        picture.rect(at(begin), line, max(at(ready) - at(begin), 2), BAR, PAUSE_COLOR, 3,
                     tip=f"{name}: {plan.windows[member] / 1e6:.1f} MB from {begin:.1f} to "
                         f"{ready:.1f} ms")
        picture.rect(at(start[member]) - 5, line + BAR / 2 - 5, 10, 10, INK, 5,
                     tip=f"{name} starts at {start[member]:.1f} ms")
    return y + height + 14
