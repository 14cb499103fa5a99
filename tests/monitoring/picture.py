"""Draws a dashboard as its JSON lays it out, from what a Prometheus answers. It is not Grafana, but near to it."""

import datetime
import io
import math
import re
import textwrap

import matplotlib

matplotlib.use("Agg")

import matplotlib.dates as dates  # noqa: E402
import matplotlib.pyplot as pyplot  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402
from PIL import Image  # noqa: E402

import dashboards  # noqa: E402

# Of Grafana's dark theme.
PAGE, PANEL, BORDER, TEXT, FAINT = "#111217", "#181b1f", "#2c3235", "#ccccdc", "#8e8e9a"
COLORS = {"green": "#73bf69", "yellow": "#fade2a", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "purple": "#b877d9"}
PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a"]
# Inches of a cell of the grid of 24 columns.
CELL_WIDTH, CELL_HEIGHT = 0.56, 0.34
DOTS_PER_INCH = 150
LEGEND_ROWS_MAX = 6
# Lines of a legend that is no table.
LEGEND_LINES_MAX = 3
# For $__rate_interval: calm enough to look at.
RATE_INTERVAL = "15s"
# Between two answers of Prometheus.
SECOND = datetime.timedelta(seconds=1)


def draw(path, prometheus, start, end, to, above=None):
    """Draws the dashboard at `path` over a time, in seconds since 1970, into the file `to`; only what is above the
    panel of the title `above`, if there is one."""
    dashboard = dashboards.read(path)
    if above:
        (end_row,) = [panel["gridPos"]["y"] for panel in dashboard["panels"] if panel["title"] == above]
        dashboard["panels"] = [panel for panel in dashboard["panels"] if panel["gridPos"]["y"] < end_row]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    page = _Page(dashboard, rows, prometheus, start, end)
    for panel in dashboard["panels"]:
        page.panel(panel)
    drawn = io.BytesIO()
    page.figure.savefig(drawn, dpi=DOTS_PER_INCH, facecolor=PAGE)
    pyplot.close(page.figure)
    # A third of the octets, and no difference to be seen.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(to, optimize=True)


class _Page:
    def __init__(self, dashboard, rows, prometheus, start, end):
        self._rows = rows + 2
        self._prometheus, self._start, self._end = prometheus, start, end
        self.figure = pyplot.figure(figsize=(24 * CELL_WIDTH, self._rows * CELL_HEIGHT))
        self.figure.text(0.008, 1 - 0.9 / self._rows, dashboard["title"], color=TEXT, fontsize=15, weight="bold", va="center")
        note = "Drawn by tests/monitoring/run --render from a Prometheus that watched popgate; not a screenshot of Grafana."
        self.figure.text(0.992, 1 - 0.9 / self._rows, note, color=FAINT, fontsize=10, va="center", ha="right")

    def _at(self, x, y):
        """A place of the grid, in the figure's fractions, from below."""
        return x / 24, 1 - (y + 2) / self._rows

    def panel(self, panel):
        at = panel["gridPos"]
        left, top = self._at(at["x"], at["y"])
        width, height = at["w"] / 24, at["h"] / self._rows
        if panel["type"] == "row":
            title = panel["title"].replace("$upstream", "All upstreams")
            self.figure.text(left + 0.008, top - height / 2, f"▾ {title}", color=TEXT, fontsize=12, va="center")
            return
        gap_x, gap_y = 0.05 / 24, 0.06 / self._rows
        box = (left + gap_x, top - height + gap_y, width - 2 * gap_x, height - 2 * gap_y)
        kind = {"stat": self._stat, "timeseries": self._series, "state-timeline": self._timeline}[panel["type"]]
        kind(panel, box)

    def _frame(self, box, title, color=PANEL, text=TEXT, size=10):
        rectangle = Rectangle(box[:2], *box[2:], transform=self.figure.transFigure, facecolor=color, edgecolor=BORDER)
        rectangle.set_zorder(-1)
        self.figure.add_artist(rectangle)
        x, y = box[0] + 0.2 / 24, box[1] + box[3] - 0.55 / self._rows
        self.figure.text(x, y, title, color=text, fontsize=size, weight="bold", va="center")

    def _series_of(self, panel):
        """Name, times and values of each series."""
        for target in panel["targets"]:
            window = f"{math.ceil(self._end - self._start)}s"
            expression = dashboards.filled_in(target["expr"], window, RATE_INTERVAL)
            for series in self._prometheus.ranged(expression, self._start, self._end, "1s"):
                labels = series["metric"]
                legend = re.sub(r"{{(\w+)}}", lambda label, of=labels: of.get(label[1], ""), target["legendFormat"])
                points = [(float(at), float(value)) for at, value in series["values"] if not math.isnan(float(value))]
                if points:
                    yield legend, [at for at, _ in points], [value for _, value in points]

    def _stat(self, panel, box):
        defaults = panel["fieldConfig"]["defaults"]
        found = list(self._series_of(panel))
        values = [(name, values[-1]) for name, _, values in found]
        texts = [(name, *_shown(value, defaults)) for name, value in values]
        # The worst decides about the frame.
        order = [step["color"] for step in defaults["thresholds"]["steps"]]
        colors = [color for _, _, color in texts]
        color = min(colors, key=_badness) if colors else None
        fill = COLORS.get(color, BORDER) if color in order or color in COLORS else BORDER
        self._frame(box, panel["title"], color=fill, text="#111217" if color else TEXT, size=7.5)
        ink = "#111217" if color else FAINT
        middle = (box[0] + box[2] / 2, box[1] + box[3] * 0.4)
        if not texts:
            raise ValueError(f"nothing to show in {panel['title']}")
        if len(texts) == 1:
            self.figure.text(*middle, texts[0][1], color=ink, fontsize=20, weight="bold", ha="center", va="center")
        else:
            for number, (name, text, _) in enumerate(texts):
                y = box[1] + box[3] * (0.62 - 0.58 * number / (len(texts) - 0.5))
                self.figure.text(box[0] + 0.3 / 24, y, name, color=ink, fontsize=11, va="center")
                self.figure.text(box[0] + box[2] - 0.3 / 24, y, text, color=ink, fontsize=14, weight="bold", va="center", ha="right")

    def _axes(self, box, below):
        left, bottom = box[0] + 1.35 / 24, box[1] + below / self._rows
        axes = self.figure.add_axes((left, bottom, box[2] - 1.6 / 24, box[1] + box[3] - bottom - 1.0 / self._rows))
        axes.set_facecolor(PANEL)
        axes.tick_params(colors=FAINT, labelsize=8, length=0)
        axes.tick_params(axis="x", pad=7)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlim(*(datetime.datetime.fromtimestamp(at) for at in (self._start, self._end)))
        axes.xaxis.set_major_locator(dates.MinuteLocator())
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
        return axes

    def _series(self, panel, box):
        self._frame(box, panel["title"])
        config, defaults = panel["fieldConfig"], panel["fieldConfig"]["defaults"]
        found = sorted(self._series_of(panel), key=lambda series: -max(series[2]))[: LEGEND_ROWS_MAX + 4]
        is_table = panel["options"]["legend"]["displayMode"] == "table"
        shown = found[:LEGEND_ROWS_MAX]
        lines = [] if is_table else self._flowing([name for name, _, _ in found], box[2] * 24 - 0.5)[:LEGEND_LINES_MAX]
        axes = self._axes(box, below=0.75 * (len(shown) if is_table else len(lines)) + 1.15)
        axes.grid(axis="y", color=BORDER, linewidth=0.6)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value, defaults["unit"])))
        stacked = defaults["custom"]["stacking"]["mode"] == "normal"
        below = {}
        colors = [_color_of(name, config["overrides"]) or PALETTE[number % len(PALETTE)] for number, (name, _, _) in enumerate(found)]
        for number, line in enumerate(lines):
            y = box[1] + (0.75 * (len(lines) - number) - 0.35) / self._rows
            for place, index in line:
                self.figure.text(box[0] + (0.25 + place) / 24, y, "▬", color=colors[index], fontsize=9, va="center")
                self.figure.text(box[0] + (0.65 + place) / 24, y, found[index][0], color=TEXT, fontsize=9, va="center")
        for number, (name, times, values) in enumerate(found):
            color = colors[number]
            if stacked:
                base = [below.get(at, 0) for at in times]
                values = [low + value for low, value in zip(base, values)]
                below.update(zip(times, values))
            for stretch in _stretches(times):
                at = [datetime.datetime.fromtimestamp(times[index]) for index in stretch]
                line = [values[index] for index in stretch]
                axes.plot(at, line, color=color, linewidth=1.0 if stacked else 1.5)
                axes.fill_between(at, [base[index] for index in stretch] if stacked else 0, line, color=color, linewidth=0,
                                  alpha=defaults["custom"]["fillOpacity"] / 100)  # fmt: skip
            if name and is_table and number < len(shown):
                y = box[1] + (0.75 * (len(shown) - number) - 0.35) / self._rows
                self.figure.text(box[0] + 0.25 / 24, y, "▬", color=color, fontsize=9, va="center")
                self.figure.text(box[0] + 0.65 / 24, y, textwrap.shorten(name, 40), color=TEXT, fontsize=9, va="center")
                last, most = found[number][2][-1], max(found[number][2])
                for place, value, what in ((2.1, last, "last"), (0.2, most, "max")):
                    text = f"{what} {_number(value, defaults['unit'])}"
                    self.figure.text(box[0] + box[2] - place / 24, y, text, color=FAINT, fontsize=8.5, va="center", ha="right")
        if not found:
            axes.text(0.5, 0.5, "No data", color=FAINT, ha="center", transform=axes.transAxes)
        if defaults.get("min") == 0:
            axes.set_ylim(bottom=0)
        if "max" in defaults:
            axes.set_ylim(top=defaults["max"])
        if defaults["custom"]["thresholdsStyle"]["mode"] != "off":
            limit = defaults["thresholds"]["steps"][-1]
            axes.axhline(limit["value"], color=COLORS[limit["color"]], linewidth=1)
            axes.axhspan(limit["value"], axes.get_ylim()[1], color=COLORS[limit["color"]], alpha=0.12, linewidth=0)

    def _flowing(self, names, room):
        """Lines of places, in cells from the left, and indices of names, which follow each other while there is room."""
        lines, place = [[]], 0
        for index, name in enumerate(names):
            text = self.figure.text(0, 0, name, fontsize=9)
            width = 0.9 + text.get_window_extent().width / self.figure.bbox.width * 24
            text.remove()
            if lines[-1] and place + width > room:
                lines.append([])
                place = 0
            lines[-1].append((place, index))
            place += width
        return lines

    def _timeline(self, panel, box):
        self._frame(box, panel["title"])
        found = sorted(self._series_of(panel), key=lambda series: series[0], reverse=True)
        found.sort(key=lambda series: series[1][0], reverse=True)
        axes = self._axes(box, below=1.15)
        left, bottom, width, height = axes.get_position().bounds
        wide = box[2] > 0.5
        names = (4.6 if wide else 1.0) / 24
        axes.set_position((left + names, bottom, width - names, height))
        for number, (_, times, values) in enumerate(found):
            for stretch in _stretches(times, values):
                _, color = _shown(values[stretch[0]], panel["fieldConfig"]["defaults"])
                begin, end = (datetime.datetime.fromtimestamp(times[index]) for index in (stretch[0], stretch[-1]))
                axes.barh(number, end - begin + SECOND, left=begin, height=0.7, color=COLORS[color], linewidth=0)
        axes.set_yticks(range(len(found)), [name if wide else textwrap.fill(name, 16) for name, _, _ in found])


def _stretches(times, values=None):
    """Indices of points that follow each other without a gap, which is not drawn over; of equal values, if given."""
    stretch = []
    for index, at in enumerate(times):
        if stretch and (at - times[stretch[-1]] > 3 or (values and values[index] != values[stretch[-1]])):
            yield stretch
            stretch = []
        stretch.append(index)
    if stretch:
        yield stretch


def _color_of(name, overrides):
    for override in overrides:
        if re.search(f"^(?:{override['matcher']['options']})$", name):
            fixed = override["properties"][0]["value"]["fixedColor"]
            return COLORS.get(fixed, fixed)
    return None


def _badness(color):
    return ["red", "orange", "yellow", "purple", "blue", "green"].index(color)


def _shown(value, defaults):
    """Text and colour of one value, by mappings and thresholds."""
    color = None
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    for mapping in defaults["mappings"]:
        mapped = mapping["options"].get(f"{value:g}")
        if mapped:
            return mapped["text"], mapped["color"]
    return _number(value, defaults["unit"], defaults.get("decimals")), color


def _number(value, unit, decimals=None):
    """As Grafana writes it, nearly."""
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        for least, size, name in ((86400 * 2, 86400, "days"), (3600 * 2, 3600, "hours"), (60, 60, "min")):
            if abs(value) >= least:
                return f"{value / size:.3g} {name}"
        if abs(value) >= 1 or value == 0:
            return f"{value:.3g} s"
        return f"{value * 1000:.3g} ms"
    if unit in ("bytes", "binBps"):
        end = "/s" if unit == "binBps" else ""
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}{end}"
        return f"{value:.3g} B{end}"
    text = f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"
    return text + {"cps": " c/s", "mps": " msg/s", "ops": " ops/s"}.get(unit, "")
