"""How a row looks, the same in every picture: the colour and marker of its method, and what tells it from its kin."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple


class Marker(NamedTuple):
    """Its names in matplotlib and Bokeh, and its outline as an SVG path around 0 with a radius of 5."""

    matplotlib: str
    bokeh: str
    path: str


MARKERS = {
    "circle": Marker("o", "circle", "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z"),
    "square": Marker("s", "square", "M-4.4-4.4h8.8v8.8h-8.8z"),
    "triangle": Marker("^", "triangle", "M0-5L5 4H-5z"),
    "diamond": Marker("D", "diamond", "M0-6L5 0L0 6L-5 0z"),
    "down": Marker("v", "inverted_triangle", "M0 5L5-4H-5z"),
    "hexagon": Marker("h", "hex", "M0-5.4L4.7-2.7V2.7L0 5.4L-4.7 2.7V-2.7z"),
    "star": Marker("*", "star", "M0-6L1.6-2L5.7-1.9L2.4.8L3.5 4.9L0 2.5L-3.5 4.9L-2.4.8L-5.7-1.9L-1.6-2z"),
    "cross": Marker("x", "x", "M-4-4L4 4M4-4L-4 4"),
}
DASHES = {"solid": "-", "dashed": "--", "dashdot": "-.", "dotted": ":"}  # Bokeh's name: matplotlib's
_PUBLISHED = "dotted"
_SHADES = ((0.0, 0.0), (0.12, -0.05), (-0.1, 0.06), (0.16, 0.04), (-0.06, -0.09))  # of kin: added to lightness and hue


@dataclass(frozen=True)
class Style:
    """`color`: "#rrggbb", seen on white and on black. `marker`: of `MARKERS`. `dash`: of `DASHES`."""

    color: str
    marker: str
    dash: str = "solid"
    filled: bool = True


_KNOWN = {
    "dense": Style("#808080", "diamond"),
    "elsa": Style("#1f83c8", "circle"),
    "elsa_plus": Style("#d55e00", "square"),
    "best": Style("#009e73", "triangle"),
    "alps": Style("#c65f9b", "diamond"),
    "sparsegpt": Style("#b38600", "down"),
    "wanda": Style("#46a9dc", "hexagon"),
    "magnitude": Style("#8968b4", "star"),
    "l_admm": Style("#7d9a20", "cross"),
    "safe": Style("#a65628", "circle"),
    "sparsellm": Style("#e0568b", "square"),
    "reconstruct": Style("#2f9ea6", "triangle"),
}
_REST = ("#5b73d6", "#c2493d", "#4f9d4f", "#9a7d52", "#a15bc4", "#d1793a", "#3f8f8a", "#8a8f2e")
_STEPS = {"finetuned": "dashed", "swaps": "dashdot"}  # what is done after the first method


def method_style(method: str) -> Style:
    """Of a known method from a table, of any other by the hash of its name.

    "alps+finetuned" has the colour and marker of alps, hollow and with another line.
    """
    first, *steps = method.split("+")
    found = _KNOWN.get(first)
    if found is None:
        color, marker = _digest(first, len(_REST)), _digest(first[::-1], len(MARKERS))
        found = Style(_REST[color], list(MARKERS)[marker])
    if not steps:
        return found
    rest = "+".join(steps)
    dash = _STEPS.get(rest, list(DASHES)[1 + _digest(rest, len(DASHES) - 1)])
    return replace(found, dash=dash, filled=False)


def _digest(text: str, below: int) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:4]) % below


class Styles:
    """Of the rows of one report, no two alike up to 160 of a method.

    `rows`: (row, method, whether it is a paper's number), in any order.

    A row with its method's name looks the same in every report; its kin, with settings behind the name, have its
    colour darker or lighter, with other markers and lines.
    """

    def __init__(self, rows: Iterable[tuple[str, str, bool]]):
        self._of: dict[str, Style] = {}
        for row, method, is_published in sorted(set(rows), key=lambda each: (each[0] != each[1], each)):
            wanted = method_style(method)
            wanted = replace(wanted, dash=_PUBLISHED, filled=False) if is_published else wanted
            self._of[row] = next((style for style in _kin(wanted) if style not in self._of.values()), wanted)

    def __getitem__(self, row: str) -> Style:
        return self._of[row] if row in self._of else method_style(row)


def _kin(style: Style) -> list[Style]:
    """The style and 159 that resemble it."""
    markers, dashes = list(MARKERS), list(DASHES)
    at, line = markers.index(style.marker), dashes.index(style.dash)
    return [
        Style(
            _shaded(style.color, *_SHADES[number % len(_SHADES)]), markers[(at + number) % len(markers)],
            dashes[(line + number // len(markers)) % len(dashes)], style.filled,
        )
        for number in range(len(markers) * len(_SHADES) * len(dashes))
    ]  # fmt: skip


def _shaded(color: str, lighter: float, turned: float) -> str:
    """Another lightness, seen on white and on black, and another hue."""
    if (lighter, turned) == (0.0, 0.0):
        return color
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    shaded = colorsys.hls_to_rgb((hue + turned) % 1, min(max(lightness + lighter, 0.34), 0.62), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shaded)


def swatch(style: Style, is_marked: bool = True) -> str:
    """Line and marker as SVG for HTML."""
    dash = {"solid": "", "dashed": "5 3", "dashdot": "6 2 1.5 2", "dotted": "1.5 2.5"}[style.dash]
    line = f'<path d="M-14 0H14" stroke="{style.color}" stroke-width="2" stroke-dasharray="{dash}"/>'
    fill = style.color if style.filled else "var(--page)"
    mark = f'<path d="{MARKERS[style.marker].path}" fill="{fill}" stroke="{style.color}" stroke-width="1.5"/>'
    mark = mark if is_marked else ""
    return f'<svg class="swatch" viewBox="-15 -7 30 14" width="30" height="14" aria-hidden="true">{line}{mark}</svg>'
