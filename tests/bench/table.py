"""The table that a run ends with."""

import statistics

from contestants import IMAPC, POP3, POPGATE

_HEADINGS = ("work", "limit", "set by", "popgate", "of limit", "to reach", "", "Dovecot imapc", "Dovecot POP3")
_LEFT = (0, 2, 5)


def rows(line, rounds):
    """The cells of a line; `rounds` are the figures of its work, by contestant, one for each round."""
    figures = {name: [figure[line.figure] for figure in those if line.figure in figure] for name, those in rounds.items()}
    limits, ours = figures.get(line.limit) or [], figures[POPGATE]
    shares = [own / limit for own, limit in zip(ours, limits)]
    return (
        line.title,
        _middle(limits, line.unit),
        line.limit if limits else "",
        _with_spread(ours, line.unit),
        _with_spread(shares, "×"),
        _target(line),
        _verdict(line.target, ours, shares),
        _middle(figures.get(IMAPC), line.unit),
        _middle(figures.get(POP3), line.unit),
    )


def _target(line):
    target = line.target
    if target is None:
        return ""
    if target.most_of_limit is not None:
        return f"≤ {target.most_of_limit:g} × limit"
    if target.least is not None:
        return f"≥ {_figure(target.least, line.unit)}"
    return f"≤ {_figure(target.most, line.unit)}"


def _verdict(target, ours, shares):
    if target is None:
        return ""
    reached = (
        (target.most_of_limit is None or statistics.median(shares) <= target.most_of_limit)
        and (target.most is None or statistics.median(ours) <= target.most)
        and (target.least is None or statistics.median(ours) >= target.least)
    )
    return "reached" if reached else "missed"


def _middle(figures, unit):
    return _figure(statistics.median(figures), unit) if figures else ""


def _with_spread(figures, unit):
    if not figures:
        return ""
    least, most = (_figure(figure, unit).removesuffix(unit).strip() for figure in (min(figures), max(figures)))
    return f"{_middle(figures, unit)} ({least}–{most})"


def _figure(value, unit):
    match unit:
        case "s":
            return _seconds(value)
        case "kB":
            return f"{_digits(value / 1000)} kB"
        case "KiB":
            return f"{_digits(value / (1 << 10))} KiB"
        case "MiB":
            return f"{_digits(value / (1 << 20))} MiB"
        case "×":
            return f"{value:.2f}"
        case "RTT":
            return f"{value:.1f}"
        case "/s":
            return f"{value:,.0f}/s"


def _seconds(value):
    return f"{value:.3g} s" if value >= 1 else f"{_digits(value * 1000)} ms"


def _digits(value):
    """Two behind the point, or three in all."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def text(lines):
    """The table of these rows of cells, aligned."""
    cells = [_HEADINGS, *lines]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]

    def aligned(row):
        pairs = enumerate(zip(row, widths))
        return "  ".join(f"{cell:<{width}}" if at in _LEFT else f"{cell:>{width}}" for at, (cell, width) in pairs).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([aligned(_HEADINGS), rule, *map(aligned, lines)])
