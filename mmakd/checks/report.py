"""The report of an inspection, for a terminal or a file."""
from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .inspection import Inspection
from .tasks import LevelSummary, TaskSummary


def print_report(found: Inspection, console: Console) -> None:
    """Print what was found, the problems last.

    Args:
        found (Inspection): What was found.
        console (Console): Where to print.
    """
    _print_networks(found, console)
    for task in found.tasks:
        _print_task(task, console)
    _print_facts(found, console)
    _print_findings('warning', found.findings.warnings, 'yellow', console)
    _print_findings('problem', found.findings.problems, 'red', console)
    if not found.findings.problems:
        console.print('No problem found.', style='green')


def _print_networks(found: Inspection, console: Console) -> None:
    if not found.networks:
        return
    table = Table('', 'type', box=None, pad_edge=False)
    table.add_column('parameters', justify='right')
    table.add_column('GFLOPs', justify='right')
    table.add_column('not counted')
    size = None
    for side, (name, complexity) in found.networks.items():
        row = [side, name]
        if complexity is not None:
            size = complexity.image_size
            row += [f'{complexity.parameters:,}', f'{complexity.flops / 1e9:.2f}',
                    ', '.join(complexity.uncounted)]
        table.add_row(*row)
    console.print(table)
    if size:
        console.print(f'GFLOPs of a forward pass, and shapes, for one image of {size[0]} x '
                      f'{size[1]}; a multiplication and an addition count as two.')


def _print_task(task: TaskSummary, console: Console) -> None:
    console.print()
    taps = task.student_tap
    if task.teacher_tap != task.student_tap:
        taps += f' (student), {task.teacher_tap} (teacher)'
    console.print(Text.assemble((f'Task {task.name}', 'bold'), f' at {taps}'))
    console.print(Padding(f'{task.loss}, weight {task.weight:g}', (0, 0, 0, 2)))
    table = Table('  level', 'student', 'teacher', 'adapter', box=None, pad_edge=False)
    table.add_column('its parameters', justify='right')
    table.add_column("the loss's", justify='right')
    for level in task.levels:
        table.add_row(f'  {level.index}', *_cells(level))
    console.print(table)


def _cells(level: LevelSummary) -> tuple[str, ...]:
    shapes = (' x '.join(map(str, shape)) for shape in (level.student, level.teacher))
    return (*shapes, level.adapter or 'none', f'{level.adapter_parameters:,}',
            f'{level.loss_parameters:,}')


def _print_facts(found: Inspection, console: Console) -> None:
    facts = {}
    if found.classes:
        facts['classes'] = ', '.join(f'{where} {number}'
                                     for where, number in found.classes.items())
    if found.batch is not None:
        facts['batch'] = found.batch
    student = found.networks.get('student', ('', None))[1]
    if found.teaching is not None and student is not None:
        facts['cost'] = (
            f'distillation adds about {found.teaching / (3 * student.flops):.0%} to a training '
            f'step: an estimate, from the FLOPs of the teacher to its deepest tap '
            f'({found.teaching / 1e9:.2f} G) against three times those of the student '
            f'({student.flops / 1e9:.2f} G)')
    if found.images is not None:
        facts['images'] = ('prepared unlike: the teacher gets its own mean, std and channel '
                           "order, but the student's padding" if found.images else
                           'student and teacher prepare them alike')
    console.print()
    if found.weights is not None:
        # Not folded, so that an address can be copied.
        console.print(f"teacher's weights: {found.weights}", soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        table.add_row(name, text)
    console.print(table)
    if found.images:
        _print_images(found.images, console)


def _print_images(images: dict[str, tuple[str, str]], console: Console) -> None:
    table = Table('', 'student', 'teacher', box=None)
    for name, values in images.items():
        table.add_row(name, *values)
    console.print(table)


def _print_findings(what: str, lines: list[str], style: str, console: Console) -> None:
    if not lines:
        return
    console.print()
    console.print(f'{len(lines)} {what}{"s" * (len(lines) > 1)}:', style=style)
    for i, line in enumerate(lines, 1):
        # Never folded, so that it can be searched for and copied.
        console.print(f'  {i}. ' + line.replace('\n', '\n     '), soft_wrap=True)
