# SPDX-License-Identifier: GPL-2.0-or-later
"""A little SVG: shapes and text in one style, and axes with round ticks."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator

INK, MUTED, RULE, PANEL = "#1f2933", "#66727f", "#d9dee4", "#f5f7f9"
# Told apart by readers with color-vision deficiencies, and in print by their order of brightness.
PALETTE = ("#30638e", "#edae49", "#00798c", "#d1495b", "#8d6cab", "#6a994e", "#a0aab4", "#9c6644",
           "#4f86c6", "#c98986")
FONT = "'Inter','Helvetica Neue',Arial,'DejaVu Sans',sans-serif"


class Drawing:
    """Coordinates are pixels; the height grows with what is drawn."""

    def __init__(self, width: int, title: str):
        self.width = width
        self.root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg",
                                       "font-family": FONT, "role": "img"})
        ET.SubElement(self.root, "title").text = title
        self.background = ET.SubElement(self.root, "rect", {"fill": "#ffffff"})

    def rect(self, x: float, y: float, width: float, height: float, fill: str,
             radius: float = 0, tip: str = "", opacity: float = 1) -> None:
        shape = ET.SubElement(self.root, "rect", {
            "x": _n(x), "y": _n(y), "width": _n(max(width, 0)), "height": _n(height),
            "fill": fill})
        if radius:
            shape.set("rx", _n(radius))
        if opacity != 1:
            shape.set("opacity", _n(opacity))
        if tip:
            ET.SubElement(shape, "title").text = tip

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = RULE,
             width: float = 1, dash: str = "") -> None:
        shape = ET.SubElement(self.root, "line", {
            "x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2), "stroke": color,
            "stroke-width": _n(width)})
        if dash:
            shape.set("stroke-dasharray", dash)

    def text(self, x: float, y: float, value: str, size: int = 12, color: str = INK,
             anchor: str = "start", bold: bool = False) -> None:
        shape = ET.SubElement(self.root, "text", {
            "x": _n(x), "y": _n(y), "font-size": str(size), "fill": color,
            "text-anchor": anchor})
        if bold:
            shape.set("font-weight", "600")
        shape.text = value

    def heading(self, x: float, y: float, title: str, note: str) -> None:
        """One text, so that the note follows the title whatever font is used."""
        self.text(x, y, title, 13, bold=True)
        part = ET.SubElement(self.root[-1], "tspan", {
            "dx": "12", "font-size": "11", "font-weight": "400", "fill": MUTED})
        part.text = note

    def legend(self, x: float, y: float, entries: list[tuple[str, str]], limit: float) -> float:
        """Colored keys in as many lines as they need; returns the y after them."""
        left = x
        for label, color in entries:
            wide = 22 + text_width(label, 11)
            if left + wide > limit and left > x:
                left, y = x, y + 18
            self.rect(left, y - 9, 10, 10, color, 2)
            self.text(left + 15, y, label, 11, MUTED)
            left += wide + 8
        return y + 18

    def save(self, path: str, height: float) -> None:
        for name, value in (("width", self.width), ("height", height)):
            self.root.set(name, _n(value))
            self.background.set(name, _n(value))
        self.root.set("viewBox", f"0 0 {_n(self.width)} {_n(height)}")
        ET.indent(self.root)
        ET.ElementTree(self.root).write(path, encoding="utf-8", xml_declaration=True)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def text_width(text: str, size: int) -> float:
    """Roughly, for a sans-serif font."""
    return len(text) * size * 0.6


def ticks(low: float, high: float, about: int = 6) -> Iterator[float]:
    """Round values from low to high."""
    span = (high - low) or 1.0
    raw = span / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    value = math.ceil(low / step - 1e-9) * step
    while value <= high + step * 1e-6:
        yield value
        value += step


def number(value: float) -> str:
    return f"{value:.6g}"
