"""Curves of a run as inline SVG, in colours that the page's style sheet sets for light and dark.

matplotlib draws with the stand-in colours below; each becomes a CSS variable in the SVG.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import offset_copy

from sightline.report.numbers import Row, number

_INK, _GRID = "#010203", "#010204"
_SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
_VARIABLES = {
    _INK: "var(--plot-ink)",
    _GRID: "var(--plot-grid)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES, start=1)},
}
# Dashes as well as colours, for eyes and printers that tell no colours apart.
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)), (0, (8, 3)))
_STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

_SMOOTHED_FROM_STEPS = 60
_BARS_UP_TO_STEPS = 60
_NOT_COMPONENTS = frozenset({"reward/mean", "reward/std"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One figure of the report."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A metric over steps; NaN where a step did not record it."""

    label: str
    steps: np.ndarray  # both of shape (T,)
    values: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chart:
    title: str
    caption: str
    metrics: Mapping[str, str]  # metric name -> label; those that no step recorded are left out
    is_share: bool = False
    is_logarithmic: bool = False
    is_optional: bool = False  # not every run records it, and its absence is worth no word
    is_news: bool = False  # worth a plot only if it was ever above 0


_ANSWER_CHARTS = (
    _Chart(
        title="Accuracy",
        caption="Of sampled answers in training; points are evaluations, with 95 % intervals.",
        metrics={"accuracy/sampled": "training"},
        is_share=True,
    ),
    _Chart(
        title="Response length",
        caption="Mean number of tokens of an answer.",
        metrics={"response/mean_tokens": "tokens"},
    ),
    _Chart(
        title="Shares",
        caption="Of answers in the asked format, thinking first, cut off; of groups with equal rewards.",
        metrics={
            "format/rate": "in format",
            "response/thinking_fraction": "thinking",
            "response/truncated_fraction": "cut off",
            "group/zero_variance_fraction": "equal-reward groups",
        },
        is_share=True,
    ),
    _Chart(
        title="KL to the reference",
        caption="Nats a token, before a step's updates and as the loss sees it; the coefficient is its weight.",
        metrics={"kl/mean": "before", "loss/kl": "in the loss", "kl/coefficient": "coefficient"},
    ),
    _Chart(title="Entropy", caption="Of the policy, nats a token.", metrics={"policy/entropy": "entropy"}),
    _Chart(
        title="Gradient norm",
        caption="Before clipping, over all trained weights.",
        metrics={"policy/gradient_norm": "norm"},
    ),
)
_STABILITY_CHARTS = (
    _Chart(
        title="Unscored and judged",
        caption="Of answers: which could not be graded and taught nothing, and whose verdict the LLM judge gave.",
        metrics={"reward/unscored_fraction": "unscored", "reward/judged_fraction": "judged"},
        is_share=True,
        is_news=True,
    ),
    _Chart(
        title="Clipped and rejected",
        caption="Of response tokens: where a clip took effect, and which the correction of the rollout left out.",
        metrics={
            "policy/clip_fraction": "clipped",
            "policy/dual_clip_fraction": "dual clip",
            "correction/rejected_fraction": "rejected",
        },
        is_share=True,
        is_optional=True,
    ),
    _Chart(
        title="Critic",
        caption="Explained variance of the returns: 1 is perfect, 0 as good as a constant; and the value loss.",
        metrics={"critic/explained_variance": "explained variance", "critic/loss": "loss"},
        is_optional=True,
    ),
    _Chart(
        title="Engine against learner",
        caption="Gap between the log-probabilities of sampling and of learning, nats; small is right.",
        metrics={"parity/max_abs_logprob_gap": "largest", "parity/mean_abs_logprob_gap": "mean"},
        is_logarithmic=True,
    ),
)


def draw_plots(
    rows: Sequence[Row], accuracy_points: Mapping[str, Sequence[tuple[int, float, float, float]]]
) -> tuple[list[Plot], list[str]]:
    """The plots that the metrics allow, and for each other one a line that says what was not recorded.

    `accuracy_points` holds (step, accuracy, low, high) of the evaluations by way of answering.
    """
    with mpl.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]  # its keys are a Literal of 300 names
        drawn: list[Plot] = []
        missing: list[str] = []
        for chart in _charts(rows):
            curves = [
                curve for name, label in chart.metrics.items() if (curve := curve_of(rows, name, label)) is not None
            ]
            if chart.is_news and not any(np.any(curve.values > 0) for curve in curves):
                continue
            points = accuracy_points if chart.title == "Accuracy" else {}
            if not curves and not any(points.values()):
                if chart.is_optional:
                    continue
                missing.append(f"{chart.title} ({', '.join(chart.metrics) or 'reward/…'})")
                continue
            figure, axes = _new_figure()
            for index, curve in enumerate(curves):
                _draw_curve(axes, curve, index)
            _draw_points(figure, axes, points, first_colour=len(curves))
            drawn.append(_finish(figure, axes, chart))
        time_plot = _draw_times(rows)
        if time_plot is None:
            missing.append("Time per step (time/…_seconds)")
        else:
            drawn.append(time_plot)
    return drawn, missing


def curve_of(rows: Sequence[Row], name: str, label: str) -> Curve | None:
    """One metric over the steps; None if no step recorded it."""
    values = [number(row.get(name)) for row in rows]
    if all(value is None for value in values):
        return None
    return Curve(
        label=label,
        steps=np.asarray([number(row.get("step")) or 0 for row in rows], dtype=np.float64),
        values=np.asarray([np.nan if value is None else value for value in values], dtype=np.float64),
    )


def _charts(rows: Sequence[Row]) -> list[_Chart]:
    names = dict.fromkeys(name for row in rows for name in row)
    components = [
        name
        for name in names
        if name.startswith("reward/") and name not in _NOT_COMPONENTS and not name.endswith("_fraction")
    ]
    losses = [name for name in names if name.startswith("loss/") and name != "loss/kl"] or ["loss/policy"]
    return [
        _Chart(
            title="Reward",
            caption="Mean over the answers of a step, and over each component before weighting.",
            metrics={
                "reward/mean": "mean",
                **{name: name.removeprefix("reward/") for name in components[:5]},
            },
        ),
        *_ANSWER_CHARTS,
        _Chart(
            title="Loss",
            caption="The quantity that the optimizer lowers; with policy gradients its level means little.",
            metrics={name: name.removeprefix("loss/") for name in losses[:6]},
        ),
        *_STABILITY_CHARTS,
    ]


def _new_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 2.75), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel("step")
    return figure, axes


def _draw_curve(axes: Axes, curve: Curve, index: int) -> None:
    """A curve; a long one as a moving average over its faint raw values."""
    colour, dashes = _SERIES[index % len(_SERIES)], _DASHES[index % len(_DASHES)]
    finite_T = np.isfinite(curve.values)
    steps, values = curve.steps[finite_T], curve.values[finite_T]
    if len(steps) < _SMOOTHED_FROM_STEPS:
        marker = "o" if len(steps) <= 30 else None
        axes.plot(steps, values, color=colour, linestyle=dashes, marker=marker, markersize=3, label=curve.label)
        return
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(steps, _moving_average(values), color=colour, linestyle=dashes, label=curve.label)


def _draw_points(
    figure: Figure,
    axes: Axes,
    points: Mapping[str, Sequence[tuple[int, float, float, float]]],
    *,
    first_colour: int,
) -> None:
    for index, (section, section_points) in enumerate(points.items()):
        if not section_points:
            continue
        steps, values, lows, highs = (
            np.asarray(column, dtype=np.float64) for column in zip(*section_points, strict=True)
        )
        axes.errorbar(
            steps,
            values,
            yerr=np.clip(np.stack([values - lows, highs - values]), 0, None),
            color=_SERIES[(first_colour + index) % len(_SERIES)],
            marker="osD^v"[index % 5],
            markersize=4.5,
            transform=offset_copy(axes.transData, figure, x=7 * index, units="points"),  # else they would coincide
            linestyle="none",
            capsize=3,
            label=section.replace("_", " "),
        )


def _draw_times(rows: Sequence[Row]) -> Plot | None:
    curves = [
        curve
        for name in ("rollout", "reward", "update", "other")
        if (curve := curve_of(rows, f"time/{name}_seconds", name)) is not None
    ]
    if not curves:
        return None
    figure, axes = _new_figure()
    heights = [np.nan_to_num(curve.values) for curve in curves]
    steps_T = curves[0].steps
    caption = "Seconds, by phase."
    if len(rows) <= _BARS_UP_TO_STEPS:
        bottom_T = np.zeros_like(steps_T)
        for index, (curve, height_T) in enumerate(zip(curves, heights, strict=True)):
            axes.bar(
                steps_T,
                height_T,
                bottom=bottom_T,
                color=_SERIES[index],
                label=curve.label,
                width=0.8,
                alpha=0.85,
            )
            bottom_T = bottom_T + height_T
    else:
        axes.stackplot(
            steps_T,
            *[_moving_average(height_T) for height_T in heights],
            colors=_SERIES[: len(curves)],
            labels=[curve.label for curve in curves],
            alpha=0.85,
        )
    chart = _Chart(title="Time per step", caption=caption, metrics={})
    return _finish(figure, axes, chart)


def _moving_average(values_T: np.ndarray) -> np.ndarray:
    """Centred; the window covers a fortieth of the run, at its ends what there is of it."""
    if len(values_T) < _SMOOTHED_FROM_STEPS:
        return values_T
    reach = max(2, len(values_T) // 80)
    sums = np.concatenate([[0.0], np.cumsum(values_T)])
    places = np.arange(len(values_T))
    starts, ends = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values_T))
    return (sums[ends] - sums[starts]) / (ends - starts)


def _finish(figure: Figure, axes: Axes, chart: _Chart) -> Plot:
    """Scales and legend, then the SVG."""
    if axes.get_xlim()[1] - axes.get_xlim()[0] < 2:
        axes.set_xlim(*(round(sum(axes.get_xlim()) / 2) + side for side in (-1, 1)))  # one step: no fractions
    if chart.is_share:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    if chart.is_logarithmic and any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.get_lines()):
        axes.set_yscale("log")
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        legend = figure.legend(handles, labels, loc="outside upper left", ncols=_num_legend_columns(labels))
        for text in legend.get_texts():
            text.set_parse_math(False)  # a reward may be named "$x"
    return Plot(title=chart.title, caption=chart.caption, svg=_to_svg(figure, chart.title))


def _num_legend_columns(labels: Sequence[str]) -> int:
    """As many as fit side by side; each label needs the room of the longest."""
    return max(1, min(len(labels), 80 // (max(map(len, labels)) + 5)))


def _to_svg(figure: Figure, title: str) -> Markup:
    content = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # several figures on one page would repeat them
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return Markup(svg)  # noqa: S704  # matplotlib escapes the labels it writes
