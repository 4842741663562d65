"""The benchmark's results as a figure."""
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmark.growth import fit
from benchmark.report import compute_ratio


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw steps and growth of one config.

    Args:
        result (dict): Of one config.
        path (Path): The picture.
    """
    growth = result['growth']
    rows = 3 if growth else 1
    columns = max(len(growth), 1)
    figure = plt.figure(figsize=(12, 4.2 + 2.6 * (rows - 1)), layout='constrained')
    grid = figure.add_gridspec(rows, columns, height_ratios=[1.5, 1, 1][:rows])
    _draw_steps(figure.add_subplot(grid[0, :]), result)
    for column, axis in enumerate(growth):
        _draw_growth(figure.add_subplot(grid[1, column]), axis, column == 0, 'step, ms', {
            'AKD': [1000 * seconds for seconds in axis['akd']],
            'plain': [1000 * seconds for seconds in axis['plain']]})
        _draw_growth(figure.add_subplot(grid[2, column]), axis, column == 0, 'peak memory, MB',
                     {'AKD': [size / 1e6 for size in axis['peak_bytes']]})
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_steps(axes: Axes, result: dict[str, Any]) -> None:
    names = list(result['variants'])
    for place, name in enumerate(names):
        ratio = compute_ratio(result, name, 'plain student')
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        axes.barh(place, middle, color='C0' if name.startswith('ours') else
                  'C1' if name.startswith('MMRazor') else '0.7')
        axes.plot([low, high], [place, place], color='black')
        axes.text(high + 0.03, place, f'{middle:.3f}', va='center',
                  bbox=dict(color='white', pad=1))
    floor = 1 + float(np.median(compute_ratio(result, 'teacher forward', 'plain student')))
    axes.axvline(floor, color='black', linestyle=':', label='floor: plain + teacher forward')
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel('time of a step / plain step: median, quartiles')
    axes.set_title(f'{result["config"]}, {result["machine"]}')
    axes.legend(loc='lower right')
    axes.margins(x=0.08)


def _draw_growth(axes: Axes, growth: dict[str, Any], is_first: bool, unit: str,
                 curves: dict[str, list[float]]) -> None:
    x = growth['x']
    for color, (name, values) in zip(('C0', '0.5'), curves.items()):
        axes.plot(x, values, 'o', color=color, label=name)
        axes.plot(x, fit(x, values), color=color, linewidth=1, label=f'{name}, line')
    axes.set_xticks(x, _readable(x, growth['values']))
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_xlabel(growth['axis'])
    if is_first:
        axes.set_ylabel(unit)
        axes.legend(loc='lower left', ncols=2, fontsize='small')


def _readable(x: list[float], values: list[str]) -> list[str]:
    """Leave out labels that would lie upon the last one."""
    labels, last = [], -np.inf
    for place, value in zip(x, values):
        is_free = place - last > 0.1 * (max(x) - min(x))
        labels.append(value.removeprefix('K = ').replace(' x ', '\nx ') if is_free else '')
        last = place if is_free else last
    return labels
