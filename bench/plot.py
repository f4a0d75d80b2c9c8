#!/usr/bin/env python3
"""Draws columns of JSON lines as one SVG line chart; only Python's own library is needed.

    bench/plot.py OUT.svg --title TEXT --x step --y loss [--where phase=train] NAME=FILE [NAME=FILE ...]

A line without the keys, or that --where excludes, is passed over. --smooth N draws the mean of the last N points, --log
makes both axes logarithmic, --linear-from-first adds a dashed line of proportional growth from the first point of the
first series, --x-label and --y-label name the axes, --y-scale multiplies every y.
"""

import argparse
import html
import json
import math

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 44, 52
COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d", "#6d28d9", "#475569")


def read(path, x, y, where, smooth, scale):
    points, recent = [], []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if x not in record or y not in record:
                continue
            if any(str(record.get(key)) != value for key, value in where):
                continue
            recent = (recent + [record[y] * scale])[-smooth:]
            points.append((record[x], sum(recent) / len(recent)))
    if not points:
        raise SystemExit(f"{path}: no line has {x} and {y}" + "".join(f" and {k}={v}" for k, v in where))
    return points


def ticks(low, high, log):
    if log:
        base = 2 if high / low < 1000 else 10
        first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
        return [base**i for i in range(first, last + 1)]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def draw(args, series):
    reference = []
    if args.linear_from_first:
        (x0, y0), x1 = series[0][1][0], series[0][1][-1][0]
        reference = [(x0, y0), (x1, y0 * x1 / x0)]
    xs = [p[0] for _, points in series for p in points]
    ys = [p[1] for _, points in series for p in points] + [p[1] for p in reference]
    move = math.log if args.log else float
    margin = 1 if args.log else (max(ys) - min(ys)) * 0.05 or 1
    low, high = (min(ys), max(ys)) if args.log else (min(ys) - margin, max(ys) + margin)

    def px(x):
        return LEFT + (move(x) - move(min(xs))) / ((move(max(xs)) - move(min(xs))) or 1) * (WIDTH - LEFT - RIGHT)

    def py(y):
        return HEIGHT - BOTTOM - (move(y) - move(low)) / ((move(high) - move(low)) or 1) * (HEIGHT - TOP - BOTTOM)

    def text(x, y, content, anchor="start", extra=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{html.escape(content)}</text>'

    def path(points, colour, extra=""):
        steps = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        return f'<polyline points="{steps}" fill="none" stroke="{colour}" stroke-width="1.8" {extra}/>'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#334155">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 24, args.title, extra='font-size="15" font-weight="600" fill="#0f172a"'),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, args.x_label or args.x, "middle"),
        text(0, 0, args.y_label or args.y, "middle",
             f'transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"'),
    ]
    for value in ticks(low, high, args.log):
        y = py(value)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        out.append(text(LEFT - 8, y + 4, f"{value:.6g}", "end"))
    for value in ticks(min(xs), max(xs), args.log):
        out.append(text(px(value), HEIGHT - BOTTOM + 18, f"{value:.6g}", "middle"))
    if reference:
        out.append(path(reference, "#94a3b8", 'stroke-dasharray="5 4"'))
        out.append(text(px(reference[1][0]) + 8, py(reference[1][1]) - 8, "proportional"))
    labels = []
    for (name, points), colour in zip(series, COLOURS * len(series)):
        out.append(path(points, colour))
        if len(points) < 20:
            out += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        labels.append([py(points[-1][1]) + 4, name, colour, px(points[-1][0])])
    labels.sort()
    for i in range(1, len(labels)):  # no two labels over each other
        labels[i][0] = max(labels[i][0], labels[i - 1][0] + 15)
    over = max(0, labels[-1][0] - (HEIGHT - BOTTOM + 4))  # the lowest stays above the axis
    for label in labels:
        label[0] -= over
    out += [text(x + 8, y, name, extra=f'fill="{colour}" font-weight="600"') for y, name, colour, x in labels]
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("series", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--title", required=True)
    parser.add_argument("--x", required=True)
    parser.add_argument("--y", required=True)
    parser.add_argument("--x-label")
    parser.add_argument("--y-label")
    parser.add_argument("--y-scale", type=float, default=1)
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--smooth", type=int, default=1)
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--linear-from-first", action="store_true")
    args = parser.parse_args()
    where = [tuple(w.split("=", 1)) for w in args.where]
    series = []
    for item in args.series:
        name, _, path = item.partition("=")
        series.append((name, read(path, args.x, args.y, where, args.smooth, args.y_scale)))
    with open(args.out, "w", encoding="utf-8") as out:
        out.write(draw(args, series))


if __name__ == "__main__":
    main()
