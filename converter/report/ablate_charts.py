"""Charts of what biases are worth: each by itself, the model without them, and inputs off the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from converter.records.ablate import BiasScore, EffectSummary, ProbeScore, VariantScore
from converter.report import charts, wording

_ROW = 34.0  # pixels
_LOWEST = 1e-3  # relative error at the left edge


def draw_bias_errors(
    biases: Sequence[BiasScore],
    said: Callable[[float | None], str],
    limits: Mapping[str, float],
) -> Markup | None:
    """For each bias the error of leaving it out beside what is expected to be left when weights imitate it."""
    if not biases:
        return None
    scale = charts.Scale(_LOWEST, max([1.0, *(b.error for b in biases if b.error)]), log=True)
    height = _ROW * len(biases) + 24
    marks = [charts.down(scale(x), 0, height - 20, "grid") for x in (0.001, 0.01, 0.1, 1.0)]
    marks += [charts.down(scale(limit), 0, height - 20, "limit", title) for title, limit in limits.items()]
    for k, bias in enumerate(biases):
        top, node, error = k * _ROW, wording.plain(bias.node), bias.error
        marks.append(charts.text(0, top + 12, f"{node}, {bias.kind.lower()}"))
        if error is not None:
            title = f"{node}: error {said(error)} without it"
            marks.append(charts.rect(0, top + 16, max(scale(error), 0.002), 6, "fill-a", title))
        left = bias.imitation_error
        if left is not None:
            title = f"{node}: error {said(left)} when weights imitate it"
            marks.append(charts.rect(0, top + 23, max(scale(left), 0.002), 6, "fill-b", title))
    for x, label, anchor in ((0.001, "0.1 %", "start"), (0.01, "1 %", "middle"), (0.1, "10 %", "middle")):
        marks.append(charts.text(scale(x), height - 4, label, "tick", anchor))
    if scale.high <= 1.0:
        marks.append(charts.text(1.0, height - 4, "100 %", "tick", "end"))
    return charts.chart(height, "error of the outputs without each bias, and with weights that imitate it", *marks)


def draw_variants(
    variants: Sequence[VariantScore],
    names: Mapping[str, str],
    said: Callable[[float | None], str],
    interval: Callable[[EffectSummary], str],
) -> Markup | None:
    """Agreement (or accuracy) of each change of the whole model, with its interval where there is one."""
    rows = []
    for variant in variants:
        effect = variant.effect
        value = effect.agreement if effect.accuracy_after is None else effect.accuracy_after
        if value is not None:
            rows.append((names[variant.name], value, effect))
    if not rows:
        return None
    height = _ROW * len(rows) + 22
    marks = [charts.down(x, 0, height - 18, "grid") for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for k, (name, value, effect) in enumerate(rows):
        top = k * _ROW
        marks += [
            charts.text(0, top + 12, name),
            charts.rect(0, top + 17, max(value, 0.002), 10, "fill-b", said(value)),
        ]
        if effect.accuracy_before is not None and effect.low is not None and effect.high is not None:
            low, high = (min(1.0, max(0.0, effect.accuracy_before + end)) for end in (effect.low, effect.high))
            marks.append(charts.rect(low, top + 21, max(high - low, 0.002), 2, "fill-open", interval(effect)))
        marks.append(charts.text(1.0, top + 12, said(value), "strong", "end"))
    marks += _shares_foot(height)
    return charts.chart(height, "share of right answers, or of answers as before, of each changed model", *marks)


def draw_probes(probes: Sequence[ProbeScore], names: Mapping[str, str], said: Callable[[float | None], str]) -> Markup:
    """Accuracy of the original and of the changed models off the data, as bars side by side."""
    shown = [n for n in ("original", "compensate-inner", "compensate-all") if n in probes[0].effects]
    tones = {"original": "fill-a", "compensate-inner": "fill-b", "compensate-all": "fill-pass"}
    size = 9.0 * len(shown) + 26
    height = size * len(probes) + 20
    marks = [charts.down(x, 0, height - 18, "grid") for x in (0.0, 0.5, 1.0)]
    for k, probe in enumerate(probes):
        marks.append(charts.text(0, k * size + 12, probe.said))
        for place, name in enumerate(shown):
            value = probe.effects[name].accuracy_after or 0.0
            title = f"{names[name]}: {said(value)}"
            marks.append(charts.rect(0, k * size + 17 + 9 * place, max(value, 0.002), 8, tones[name], title))
    return charts.chart(
        height, "right answers on inputs that were moved away from the data", *marks, *_shares_foot(height)
    )


def _shares_foot(height: float) -> list[Markup]:
    ends = ((0.0, "0 %", "start"), (0.5, "50 %", "middle"), (1.0, "100 %", "end"))
    return [charts.text(x, height - 3, label, "tick", anchor) for x, label, anchor in ends]
