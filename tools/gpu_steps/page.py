"""The results of all machines as a table, on the console and in docs/gpu.md."""
from collections import Counter
from pathlib import Path
from typing import Any

from mmengine.fileio import load
from rich.console import Console
from rich.table import Table

from benchmark.report import markdown, replace_results
from gpu_steps.all_steps import STEPS
from gpu_steps.step import LEFT_OUT, PASSED

_NAMES = dict(cpu='CPU, rehearsal', cuda='GPU')
_COLOURS = dict(passed='green', failed='red')


def read_results(folder: Path, device: str) -> dict[str, dict[str, Any]]:
    """Read the finished steps of a device, by name; none where there is no file."""
    file = folder / f'{device}.json'
    return load(file) if file.exists() else {}


def print_table(results: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the steps of a device.

    Args:
        results (dict): What :func:`read_results` gives.
        console (Console): Where to print.
    """
    table = Table()
    for heading in 'step', 'what', 'found', 'expected', 'status':
        table.add_column(heading, overflow='fold')
    for name, result in results.items():
        for number, (what, found, expected, status) in enumerate(result['rows']):
            colour = _COLOURS.get(status, 'yellow')
            table.add_row(name if number == 0 else '', what, found, expected,
                          f'[{colour}]{status}[/{colour}]')
    console.print(table)


def update_page(path: Path, folder: Path) -> None:
    """Make the tables of docs/gpu.md anew.

    Args:
        path (Path): The page.
        folder (Path): Where the results are.
    """
    devices = {device: read_results(folder, device) for device in _NAMES}
    parts = []
    for device, results in devices.items():
        runs = {_describe(result): None for result in results.values()}
        parts.append(f'{_NAMES[device]}: ' + ('; '.join(runs) if runs else
                                              'not one step has run, its column is empty') + '.')
    parts.append(markdown([['step', *_NAMES.values()], *(
        [name, *(_sum_up(devices[device].get(name)) for device in _NAMES)] for name in STEPS)]))
    rows = [[f'{name}: {what}', found, expected, status]
            for name, result in devices['cuda'].items()
            for what, found, expected, status in result['rows']]
    if rows:
        parts += ['### What was found on the GPU',
                  markdown([['what', 'found', 'expected', 'status'], *rows])]
    replace_results(path, parts)


def _describe(result: dict[str, Any]) -> str:
    size = ', smallest sizes' if result['quick'] else ''
    return f'{result["machine"]}, {result["date"]}, commit {result["commit"]}{size}'


def _sum_up(result: dict[str, Any] | None) -> str:
    if result is None:
        return ''
    found = Counter(row[-1] for row in result['rows'])
    left_out = found.pop(LEFT_OUT, 0)
    text = f'{result["status"]} ({found[PASSED]} of {found.total()}'
    if left_out:
        text += f', {left_out} left out'
    return f'{text}), {result["seconds"]:.0f} s'
