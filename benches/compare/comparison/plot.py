"""Plots as SVG: groups of horizontal bars, with the figure at each bar."""

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
