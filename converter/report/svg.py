"""Marks for charts that stretch: x in per cent of the width, y in pixels, so that text keeps its size on a phone.

Everything goes through `tag`, which escapes: a name from a model is never markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def tag(name: str, *inside: str | Markup, **attributes: object) -> Markup:
    """One element; ``_`` in the name of an attribute is ``-``, and a trailing one goes (``class_``)."""
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _said(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, Markup("").join(map(escape, inside)))


def _said(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float) -> str:
    """A place across the chart."""
    return f"{100 * value:.2f}%"


def chart(height: float, label: str, *marks: Markup, class_: str = "") -> Markup:
    """A chart as wide as there is room; ``label`` says in words what it shows."""
    return tag(
        "svg", *marks, class_=f"chart {class_}".strip(), height=height, width="100%", role="img", aria_label=label
    )


def axis(labels: Mapping[str, float], height: float) -> Markup:
    """Labels at the left of a chart: what they say, and at which height."""
    texts = [tag("text", said, x=50, y=round(y, 1), text_anchor="end") for said, y in labels.items()]
    return tag("svg", *texts, class_="yaxis", width=58, height=height + 6, aria_hidden="true")


def rect(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> Markup:
    """A bar."""
    place = {"x": percent(x), "y": round(y, 2), "width": percent(width), "height": round(height, 2)}
    return tag("rect", *_title(title), class_=class_, **place)


def dot(x: float, y: float, class_: str, title: str = "", radius: float = 4) -> Markup:
    """A point."""
    return tag("circle", *_title(title), class_=class_, cx=percent(x), cy=round(y, 2), r=radius)


def across(y: float, class_: str) -> Markup:
    """A line over the whole width."""
    return tag("line", class_=class_, x1="0", x2="100%", y1=round(y, 2), y2=round(y, 2))


def down(x: float, top: float, bottom: float, class_: str, title: str = "") -> Markup:
    """A line from top to bottom."""
    return tag(
        "line", *_title(title), class_=class_, x1=percent(x), x2=percent(x), y1=round(top, 2), y2=round(bottom, 2)
    )


def text(x: float, y: float, said: str, class_: str = "", anchor: str = "start") -> Markup:
    """A label."""
    return tag("text", said, class_=class_ or None, x=percent(x), y=round(y, 2), text_anchor=anchor)


def _title(title: str) -> tuple[Markup, ...]:
    return (tag("title", title),) if title else ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers as parts of a length: ``low`` is 0 and ``high`` is 1; what lies beyond is at the edge."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if math.isnan(value):
            return 1.0
        if self.log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low) if math.isfinite(value) else 1.0
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, part))


def nice(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many of them."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return []
    rough = (high - low) / about
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float, most: int = 5) -> list[float]:
    """Powers of ten within a range, not more than ``most``."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / most))
    return [10.0**k for k in range(first, last + 1, step)]


def thinned(values: Sequence[float], most: int) -> list[list[int]]:
    """The places of a sequence in at most ``most`` runs of neighbours."""
    size = max(1, math.ceil(len(values) / most))
    return [list(range(k, min(k + size, len(values)))) for k in range(0, len(values), size)]
