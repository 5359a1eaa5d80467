"""Plots as SVG: groups of horizontal bars, and panels of lines, with the figure at each bar and point."""

import math
from html import escape

BAR, GAP, LABEL, WIDTH, RIGHT = 18, 14, 250, 420, 130
COLOURS = {"warmline": "#c2410c", "floor": "#94a3b8", "direct": "#cbd5e1"}
PEER = "#475569"


def bars(title, groups, series):
    """`groups`: (heading, [(label, (value, ...))]); `series` names the values of a bar, the first one solid."""
    top = max((max(values) for _, rows in groups for _, values in rows), default=1) or 1
    out, y = [], 34
    for heading, rows in groups:
        y += GAP
        out.append(text(10, y + 4, heading, weight="bold"))
        y += 14
        for label, values in rows:
            colour = COLOURS.get(label.split()[0], PEER)
            out.append(text(LABEL - 8, y + BAR - 5, label, anchor="end"))
            # The widest lies below.
            for index in sorted(range(len(values)), key=lambda i: -values[i]):
                width = max(1, WIDTH * values[index] / top)
                opacity = 1 if index == 0 else 0.35
                out.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{colour}"'
                           f' fill-opacity="{opacity}"/>')
            end = LABEL + max(1, WIDTH * max(values) / top)
            out.append(text(end + 6, y + BAR - 5, " / ".join(f"{value:,.1f}" for value in values)))
            y += BAR
    size = (LABEL + WIDTH + RIGHT, y + 14)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
            f'viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>')
    caption = text(10, 22, f"{title} ({' / '.join(series)})", weight="bold", size=15)
    return "\n".join([head, caption, *out, "</svg>", ""])


def text(x, y, content, anchor="start", weight="normal", size=12):
    return (f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">'
            f'{escape(content)}</text>')


PANEL, ACROSS, MARGIN = (330, 170), 2, 58


def lines(title, panels):
    """`panels`: (heading, axis, [(name, [(x, y)])]), x in powers, y from zero."""
    out, rows = [], -(-len(panels) // ACROSS)
    size = (ACROSS * (PANEL[0] + MARGIN) + 90, 40 + rows * (PANEL[1] + 62))
    for index, (heading, axis, curves) in enumerate(panels):
        left = MARGIN + index % ACROSS * (PANEL[0] + MARGIN + 40)
        base = 62 + index // ACROSS * (PANEL[1] + 62) + PANEL[1]
        out += panel(left, base, heading, axis, curves)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
            f'viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>')
    return "\n".join([head, text(10, 22, title, weight="bold", size=15), *out, "</svg>", ""])


def panel(left, base, heading, axis, curves):
    points = [point for _, curve in curves for point in curve]
    top = max(y for _, y in points) * 1.15 or 1
    low, high = (math.log10(max(pick(x for x, _ in points), 1)) for pick in (min, max))
    def place(x, y):
        return left + PANEL[0] * (math.log10(max(x, 1)) - low) / ((high - low) or 1), base - PANEL[1] * y / top
    out = [text(left, base - PANEL[1] - 8, heading, weight="bold"),
           f'<path d="M{left} {base - PANEL[1]}V{base}H{left + PANEL[0]}" fill="none" stroke="#94a3b8"/>',
           text(left + PANEL[0], base + 30, axis, anchor="end")]
    out += [text(place(x, 0)[0], base + 15, f"{x:,}", anchor="middle") for x in sorted({x for x, _ in points})]
    for (name, curve), colour in zip(curves, ("#c2410c", "#475569", "#0369a1", "#94a3b8")):
        placed = [place(x, y) for x, y in curve]
        out.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}" fill="none" stroke="{colour}"'
                   ' stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        out += [text(x, round(y - 7, 1), f"{value:,.1f}", anchor="middle", size=10)
                for (x, y), (_, value) in zip(placed, curve)]
        out.append(text(placed[-1][0] + 18, round(placed[-1][1] + 4, 1), name, size=11))
    return out
