"""Charts as inline SVG; colours come from the page's style sheet, so that they follow its theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from megafm.report.series import si, thin, ticks

WIDTH = 760
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a chart; `style` is a class of the style sheet, `dots` marks each point."""

    name: str
    style: str
    points: list[Point]
    dots: bool = False


def line_chart(
    series: list[Series],
    *,
    label: str,
    x_label: str,
    height: int = 260,
    y_range: Point | None = None,
    y_text: Callable[[float], str] = si,
) -> str:
    """Lines over an x axis from zero; points above `y_range` leave the chart at the top."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    x_low, x_high = 0.0, max(xs)
    y_low, y_high = y_range or (min(ys), max(ys))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM

    def at(x: float, y: float) -> Point:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        return LEFT + across * plot_width, TOP + (1 - up) * plot_height

    clip = label.replace(" ", "-")
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">',
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{plot_width}" '
        f'height="{plot_height}"/></clipPath>',
    ]
    for value in ticks(y_low, y_high, max(2, height // 50)):
        y = at(x_low, value)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">')
        parts.append(f"{y_text(value)}</text>")
    for value in ticks(x_low, x_high, 6):
        x = at(value, y_low)[0]
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 21}" text-anchor="middle">')
        parts.append(f"{si(value)}</text>")
    middle = LEFT + plot_width / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 5}" text-anchor="middle">')
    parts.append(f'{escape(x_label)}</text><g clip-path="url(#{clip})">')
    for line in series:
        places = [at(*point) for point in thin(line.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        if line.dots:
            parts.extend(
                f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>'
                f"{escape(line.name)} {point[1]:.4g} at {si(point[0])}</title></circle>"
                for (x, y), point in zip(places, thin(line.points), strict=True)
            )
    return "".join([*parts, "</g></svg>"])


def legend(series: list[Series]) -> str:
    items = (f'<span><i class="key {line.style}"></i>{escape(line.name)}</span>' for line in series)
    return f'<p class="legend">{"".join(items)}</p>'


def bar_chart(
    rows: list[tuple[str, float, str]],
    *,
    label: str,
    value_text: Callable[[float], str] = "{:.3f}".format,
) -> str:
    """Horizontal bars (name, value, style) with their values, from zero."""
    longest = max(len(name) for name, _, _ in rows)
    row_height, name_width = 40, max(150, 20 + 9 * longest)  # a letter is about 9 wide
    height = row_height * len(rows) + 8
    full = WIDTH - name_width - 90
    most = max(value for _, value, _ in rows) or 1
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    for i, (name, value, style) in enumerate(rows):
        y = 4 + i * row_height
        length = full * value / most
        parts.append(
            f'<text class="name" x="{name_width - 12}" y="{y + 23}" text-anchor="end">'
            f'{escape(name)}</text><rect class="bar {style}" x="{name_width}" y="{y + 6}" '
            f'width="{length:.1f}" height="26" rx="4"/><text class="value" '
            f'x="{name_width + length + 10:.1f}" y="{y + 24}">{value_text(value)}</text>'
        )
    return "".join([*parts, "</svg>"])


def column_chart(rows: list[tuple[str, int]], *, label: str, height: int = 180) -> str:
    """Columns (name, count) side by side, from zero; about ten of the names are written."""
    plot = height - TOP - 22
    step = min(60.0, (WIDTH - LEFT - RIGHT) / len(rows))
    most = max(count for _, count in rows) or 1
    every = -(-len(rows) // 10)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<text class="tick" x="{LEFT - 8}" y="{TOP + 10}" text-anchor="end">{si(most)}')
    parts.append("</text>")
    for i, (name, count) in enumerate(rows):
        tall, x = plot * count / most, LEFT + i * step
        parts.append(
            f'<rect class="bar model" x="{x + 0.1 * step:.1f}" y="{TOP + plot - tall:.1f}" '
            f'width="{0.8 * step:.1f}" height="{tall:.1f}"><title>{escape(name)}: {count:,}'
            "</title></rect>"
        )
        if i % every == 0:
            parts.append(f'<text class="tick" x="{x + step / 2:.1f}" y="{height - 6}" ')
            parts.append(f'text-anchor="middle">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])
