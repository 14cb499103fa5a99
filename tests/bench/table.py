"""The table that a run ends with."""

import statistics

from contestants import IMAPC, POP3, POPGATE, SUBMISSIOND

_HEADINGS = ("work", "limit", "by", "popgate", "× limit", "to reach", "Dovecot", POP3)
_ALIGNED_LEFT = (0, 2, 5)
_LEGEND = """
limit      what has no proxy between, or one that only copies; "by" tells who that is
popgate    the median of the rounds, and the least and the most; the others by their medians
× limit    the same of popgate ÷ limit, round by round
Dovecot    its POP3 server on the upstream's IMAP (imapc), or its submission service"""

# Of each unit the steps in which it is shown: from this value on, divided by this, so called.
_STEPS = {
    "s": ((1, 1, " s"), (0, 1e-3, " ms")),
    "kB": ((0, 1e3, " kB"),),
    "KiB": ((0, 1 << 10, " KiB"),),
    "MiB": ((0, 1 << 20, " MiB"),),
    "RTT": ((0, 1, " RTT"),),
    "/s": ((0, 1, "/s"),),
    "×": ((0, 1, ""),),
}


def cells(line, rounds):
    """The cells of a line; `rounds` are the figures of its work, by contestant, one for each round."""
    figures = {
        contestant: [figure[line.figure] for figure in those if line.figure in figure]
        for contestant, those in rounds.items()
    }
    limits, ours = figures.get(line.limit, []), figures[POPGATE]
    # CPU time comes in ticks, of which a small run may need none.
    ratios = [own / limit for own, limit in zip(ours, limits) if limit > 0]
    return (
        line.title,
        _median(limits, line.unit),
        line.limit if limits else "",
        _with_spread(ours, line.unit),
        _with_spread(ratios, "×"),
        _target(line, ours, ratios),
        _median(figures.get(IMAPC) or figures.get(SUBMISSIOND), line.unit),
        _median(figures.get(POP3), line.unit),
    )


def _target(line, ours, ratios):
    target = line.target
    if target is None:
        return ""
    if target.most_of_limit is not None:
        reached = bool(ratios) and statistics.median(ratios) <= target.most_of_limit
        text = f"≤ {target.most_of_limit:g} ×"
    elif target.least is not None:
        reached = statistics.median(ours) >= target.least
        text = f"≥ {_shown(target.least, line.unit)}"
    else:
        reached = statistics.median(ours) <= target.most
        text = f"≤ {_shown(target.most, line.unit)}"
    return f"{'✓' if reached else '✗'} {text}"


def _median(figures, unit):
    return _shown(statistics.median(figures), unit) if figures else ""


def _with_spread(figures, unit):
    if not figures:
        return ""
    median = statistics.median(figures)
    divisor, _ = _step(median, unit)
    return f"{_shown(median, unit)} ({_digits(min(figures) / divisor)}–{_digits(max(figures) / divisor)})"


def _shown(value, unit):
    divisor, name = _step(value, unit)
    return _digits(value / divisor) + name


def _step(value, unit):
    return next((divisor, name) for least, divisor, name in _STEPS[unit] if abs(value) >= least)


def _digits(value):
    """Three of them, or all before the point."""
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{decimals}f}"


def text(lines):
    """The table of these lines, aligned, and how to read it."""
    rows = [_HEADINGS, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]

    def aligned(row):
        padded = (
            cell.ljust(width) if column in _ALIGNED_LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([aligned(_HEADINGS), rule, *map(aligned, lines), _LEGEND])
