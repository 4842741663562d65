"""The paired differences of one data set and task, as a figure."""
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from trials.arms import ARMS
from trials.evidence import Stage, plain_of

# Colour and face of the marks.
_STYLES = ('0.55', 'white'), ('C0', 'C0')


def plot(title: str, unit: str, screening: Stage, confirmation: Stage, path: Path) -> bool:
    """Draw each arm's difference to its base; those to plain students would need another scale.

    Args:
        title (str): Of the figure.
        unit (str): The metric.
        screening (Stage): Results.
        confirmation (Stage): Results.
        path (Path): The figure, SVG.

    Returns:
        bool: Whether there is anything to draw.
    """
    rows = [arm for arm in ARMS if ARMS[arm].against != plain_of(arm) and any(
        stage.compare(arm, ARMS[arm].against) for stage in (screening, confirmation))]
    if not rows:
        return False
    figure = Figure(figsize=(8, 1.6 + 0.3 * len(rows)), layout='constrained')
    axes = figure.add_subplot()
    least = screening.least
    axes.axvspan(-least, least, color='0.93')
    axes.axvline(0, color='black', linewidth=0.8)
    for place, arm in enumerate(rows):
        for offset, stage, (color, face) in zip((0.15, -0.15), (screening, confirmation), _STYLES):
            comparison = stage.compare(arm, ARMS[arm].against)
            if comparison:
                value, low, high = comparison.difference
                axes.plot([low, high], [place + offset] * 2, color=color)
                axes.plot(value, place + offset, 'o', color=color, markerfacecolor=face)
    axes.set_yticks(range(len(rows)),
                    [f'{arm} \N{MINUS SIGN} {ARMS[arm].against}' for arm in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f'paired difference in {unit}, with its 95 % bootstrap interval')
    axes.set_title(title)
    figure.legend(handles=[
        *(Line2D([], [], marker='o', color=color, markerfacecolor=face, label=name)
          for name, (color, face) in zip(('screening', 'confirmation'), _STYLES)),
        Patch(color='0.93', label=f'less than is of interest ({least} {unit})')],
        loc='outside lower center', ncols=3, frameon=False, fontsize='small')
    save(figure, path)
    return True


def save(figure: Figure, path: Path) -> None:
    """Save a figure as SVG; the same results make the same file."""
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({'svg.hashsalt': 'study', 'svg.fonttype': 'none'}):
        figure.savefig(path, metadata=dict(Date=None))
