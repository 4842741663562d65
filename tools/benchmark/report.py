"""The benchmark's results as tables, on the console and in a Markdown file."""
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.fileio import load
from rich.console import Console
from rich.table import Table

from benchmark.growth import fit
from mmakd.utils.errors import ConfigError

_BEGIN, _END = '<!-- results: begin -->', '<!-- results: end -->'
_BASE, _AKD = 'ours, base criterion', 'ours, AKD, K = '
_FPN, _SINGLE = 'MMRazor FpnTeacherDistill', 'MMRazor SingleTeacherDistill'


class Target(NamedTuple):
    """What is aimed at.

    Args:
        ratio (str): What is divided by what.
        numerator (str): Variant; ``best`` is the fastest of ours with the base criterion.
        denominator (str): Variant, or ``floor``: plain student and teacher forward.
        unit (str): ``seconds``, ``peak_bytes`` or ``checkpoint_bytes``.
        cpu (float): The most it may be on a CPU.
        cuda (float): The most it may be on a GPU.
    """

    ratio: str
    numerator: str
    denominator: str
    unit: str
    cpu: float
    cuda: float


TARGETS = (
    Target('base criterion / MMRazor `FpnTeacherDistill`', 'best', _FPN, 'seconds', 0.95, 0.80),
    Target('base criterion / floor', 'best', 'floor', 'seconds', 1.00, 0.90),
    Target('AKD K = 1 / base criterion', _AKD + '1', _BASE, 'seconds', 1.02, 1.01),
    Target('AKD K = 8 / AKD K = 1', _AKD + '8', _AKD + '1', 'seconds', 1.05, 1.05),
    Target('peak memory / MMRazor `FpnTeacherDistill`', _BASE, _FPN, 'peak_bytes', 0.95, 0.95),
    Target("checkpoint / plain student's", _AKD + '1', 'plain student', 'checkpoint_bytes', 1.02,
           1.02),
)


def compute_ratio(result: dict[str, Any], numerator: str, denominator: str,
                  unit: str = 'seconds') -> np.ndarray:
    """Divide what was measured, round by round.

    Args:
        result (dict): Of one config.
        numerator (str): Variant, or ``best``.
        denominator (str): Variant, or ``floor``.
        unit (str): What is divided. Defaults to ``'seconds'``.

    Returns:
        np.ndarray: Ratios, one a round; NaN where one of the two was not measured.
    """
    variants = result['variants']
    if numerator == 'best':
        numerator = min((name for name in variants if name.startswith(_BASE)),
                        key=lambda name: np.median(variants[name][unit]))
    parts = (['plain student', 'teacher forward'] if denominator == 'floor' else [denominator])
    if any(variants.get(name, {}).get(unit) is None for name in [numerator, *parts]):
        return np.array([np.nan])
    below = np.sum([variants[part][unit] for part in parts], axis=0)
    return np.atleast_1d(np.asarray(variants[numerator][unit]) / below)


def median_ratio(result: dict[str, Any], target: Target) -> float | None:
    """Compute the median of what has a target.

    Args:
        result (dict): Of one config.
        target (Target): One of :data:`TARGETS`.

    Returns:
        float | None: The ratio; None where one of the two was not measured.
    """
    ratio = np.median(compute_ratio(result, target.numerator, target.denominator, target.unit))
    return None if np.isnan(ratio) else float(ratio)


def _quartiles(values: np.ndarray, form: str) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f'{middle:{form}} ({low:{form}} to {high:{form}})'


def step_table(result: dict[str, Any]) -> list[list[str]]:
    """Make the table of variants.

    Args:
        result (dict): Of one config.

    Returns:
        list[list[str]]: Rows, the first of which is the heading.
    """
    rows = [['', 'step, ms (quartiles)', '/ plain', '/ floor', 'peak memory, MB',
             'checkpoint, MB']]
    for name, measured in result['variants'].items():
        ratios = [compute_ratio(result, name, other) for other in ('plain student', 'floor')]
        sizes = [f'{measured[unit] / 1e6:.0f}' if measured[unit] else ''
                 for unit in ('peak_bytes', 'checkpoint_bytes')]
        rows.append([name, _quartiles(1000 * np.asarray(measured['seconds']), '.0f'),
                     *(f'{np.median(ratio):.3f}' for ratio in ratios),
                     *sizes])
    return rows


def growth_table(growth: dict[str, Any]) -> list[list[str]]:
    """Make the table of one axis.

    Args:
        growth (dict): One of what :func:`benchmark.growth.measure_growth` gives.

    Returns:
        list[list[str]]: Rows, the first of which is the heading.
    """
    x = growth['x']
    columns = [[1000 * seconds for seconds in growth[name]] for name in ('akd', 'plain')]
    columns.append([size / 1e6 for size in growth['peak_bytes']])
    cells = [growth['values']]
    for column in columns:
        cells += [[f'{value:.0f}' for value in column],
                  [f'{value:.0f}' for value in fit(x, column)]]
    heading = [growth['axis'], 'AKD step, ms', 'law', 'plain step, ms', 'law',
               'AKD peak memory, MB', 'law']
    return [heading, *map(list, zip(*cells))]


def target_table(results: list[dict[str, Any]]) -> list[list[str]]:
    """Make the table of targets, with a column for each device and config.

    Args:
        results (list[dict]): Of all configs and devices.

    Returns:
        list[list[str]]: Rows, the first of which is the heading.
    """
    by_device = {(result['device'], result['config']): result for result in results}
    configs = sorted({config for _, config in by_device})
    rows = [['', *(f'{device}: {config.split("_")[2]}' for device in ('CPU', 'GPU')
                   for config in configs), 'target, CPU', 'target, GPU']]
    for target in TARGETS:
        cells = []
        for device in ('cpu', 'cuda'):
            for config in configs:
                result = by_device.get((device, config))
                if result is None:
                    cells.append('')
                    continue
                ratio = median_ratio(result, target)
                cells.append('n/a' if ratio is None else f'{ratio:.3f}')
        rows.append([target.ratio, *cells, f'<= {target.cpu:.2f}', f'<= {target.cuda:.2f}'])
    return rows


def _describe(result: dict[str, Any]) -> list[str]:
    height, width = result['size']
    versions = ', '.join(f'{name} {number}' for name, number in result['versions'].items())
    lines = [f'{result["machine"]}, {result["threads"]} threads; {result["batch"]} images of '
             f'{height} x {width}; {result["rounds"]} rounds; {versions}; {result["date"]}.']
    lines += [f'Without MMRazor `{name}`: {why}.' for name, why in result['left_out'].items()]
    losses = [measured['distillation_loss'] for name, measured in result['variants'].items()
              if name == _BASE or name.startswith('MMRazor')]
    lines.append('Distillation loss at the first batch, ours and theirs: '
                 f'{", ".join(f"{loss:.5g}" for loss in losses)}.')
    return lines


def print_result(result: dict[str, Any], console: Console) -> None:
    """Print what was measured of one config.

    Args:
        result (dict): Of one config.
        console (Console): Where to print.
    """
    console.print(f'[bold]{result["config"]}[/bold]\n' + '\n'.join(_describe(result)),
                  highlight=False)
    for rows, title in [(step_table(result), None), (target_table([result]), 'targets'),
                        *((growth_table(axis), axis['law']) for axis in result['growth'])]:
        table = Table(title=title, title_justify='left')
        for heading in rows[0]:
            table.add_column(heading, overflow='fold')
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)


def check_report(path: Path) -> None:
    """Check that a file can be updated, before anything is measured.

    Args:
        path (Path): The file.

    Raises:
        ConfigError: If it is missing, or does not say where the tables go.
    """
    if not path.is_file() or not re.search(f'{_BEGIN}.*{_END}', path.read_text(), re.S):
        raise ConfigError(f'--report={path}: must be a Markdown file with the line {_BEGIN!r} '
                          f'and, behind it, {_END!r}, between which the tables go')


def update_report(path: Path, folder: Path) -> None:
    """Make the tables of a Markdown file anew.

    Args:
        path (Path): The file; what is between its two marks is replaced.
        folder (Path): Where the results of all configs and devices are, as JSON.
    """
    results = [load(file) for file in sorted(folder.glob('*.json'))]
    parts = ['### Targets', markdown(target_table(results))]
    for result in results:
        name = f'{result["device"]}_{result["config"]}'
        picture = (folder / f'{name}.png').relative_to(path.parent)
        parts += [f'### {result["device"].upper()}: {result["config"]}',
                  '\n'.join(_describe(result)), f'```shell\n{result["command"]}\n```',
                  markdown(step_table(result)), f'![{result["config"]}]({picture})']
        for axis in result['growth']:
            parts += [f'By {axis["axis"]}; expected: {axis["law"]}.',
                      markdown(growth_table(axis))]
    replace_results(path, parts)


def replace_results(path: Path, parts: list[str]) -> None:
    """Replace what is between the marks of a Markdown file.

    Args:
        path (Path): The file.
        parts (list[str]): Its paragraphs and tables.
    """
    before, rest = path.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    path.write_text(before + '\n\n'.join([_BEGIN, *parts, _END]) + after)


def markdown(rows: list[list[str]]) -> str:
    """Write a table, whose first row is the heading, as Markdown."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    lines.insert(1, '|---|' + '---:|' * (len(rows[0]) - 1))
    return '\n'.join(lines)
