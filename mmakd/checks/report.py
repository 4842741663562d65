"""Print the report of an inspection."""
from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from ..avatars import AvatarVariance
from ..losses import UncertaintyFeatureLoss
from ..utils.errors import numbered
from .complexity import count_parameters
from .inspection import Inspection


def print_report(found: Inspection, console: Console) -> None:
    """Print what was found, the problems last."""
    _print_networks(found, console)
    _print_tasks(found, console)
    _print_facts(found, console)
    if found.differences:
        console.print("\nDifferent from the student's own config:", style='yellow')
        console.print(_table(('key', "the student's own", 'here'), found.differences))
    _print_lines('warning', found.problems.warnings, 'yellow', console)
    _print_lines('problem', found.problems.problems, 'red', console)
    if not found.problems.problems:
        console.print('No problem found.', style='green')


def _table(titles: tuple[str, ...], rows: Any) -> Table:
    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _print_networks(found: Inspection, console: Console) -> None:
    if not found.networks:
        return
    table = Table('', 'type', box=None, pad_edge=False)
    table.add_column('parameters', justify='right')
    table.add_column('GFLOPs', justify='right')
    table.add_column('not counted')
    size = None
    for side, (network, complexity) in found.networks.items():
        row = [side, type(network).__name__, f'{count_parameters(network):,}']
        if complexity is not None:
            size = complexity.image_size
            row += [f'{complexity.flops / 1e9:.2f}', ', '.join(complexity.uncounted)]
        table.add_row(*row)
    console.print(table)
    if size:
        console.print(f'GFLOPs of a forward pass, and shapes, for one image of {size[0]} x '
                      f'{size[1]}; a multiplication and an addition count as two.')


def _print_tasks(found: Inspection, console: Console) -> None:
    model: Any = found.model
    for name, (of_student, of_teacher, _) in found.maps.items():
        task = model.distiller[name]
        pair = model.taps[name]
        label = model.label_of(pair.of)
        taps = f'{pair.student} ({pair.by}), {pair.teacher} ({label})'
        if pair.teacher == pair.student:
            both = f'{pair.by} and {label}'
            taps = pair.student + f' of {both}' * (both != 'student and teacher')
        if pair.perturb_at:
            taps += f', perturbed at the input of {pair.perturb_at}'
        console.print(Text.assemble((f'\nTask {name}', 'bold'), f' at {taps}'))
        console.print(Padding(f'{describe_loss(task.losses[0])}, weight {task.loss_weight:g}',
                              (0, 0, 0, 2)))
        table = Table('  level', pair.by, label, 'adapter', box=None, pad_edge=False)
        table.add_column('its parameters', justify='right')
        table.add_column("the loss's", justify='right')
        levels = range(len(of_student)) if task.levels is None else task.levels
        for level, adapter, loss in zip(levels, task.adapters, task.losses):
            shapes = (' x '.join(map(str, features[level].shape[1:]))
                      for features in (of_student, of_teacher))
            table.add_row(f'  {level}', *shapes,
                          'none' if isinstance(adapter, nn.Identity) else type(adapter).__name__,
                          f'{count_parameters(adapter):,}',
                          f'{count_parameters(loss, learned_only=True):,}')
        console.print(table)


def describe_loss(loss: nn.Module) -> str:
    """Name a loss and, in brackets, the parts of an ``UncertaintyFeatureLoss``."""
    name = type(loss).__name__
    if not isinstance(loss, UncertaintyFeatureLoss):
        return name
    parts = [type(loss.criterion).__name__]
    has_sigma = loss.uncertainty and isinstance(loss.uncertainty[0], AvatarVariance)
    if loss.perturbation is not None and (loss.perturb or has_sigma):
        parts.append(type(loss.perturbation).__name__ + (
            f' x {loss.num_avatars}' if loss.perturb else ' (sigma only)'))
    if loss.uncertainty is not None:
        parts.append(type(loss.uncertainty[0]).__name__)
    return f'{name}({", ".join(parts)})'


def _print_facts(found: Inspection, console: Console) -> None:
    facts = {}
    if found.classes:
        facts['classes'] = ', '.join(map(' '.join, found.classes.items()))
    if found.batch is not None:
        facts['batch'] = found.batch
    if found.teacher_flops:
        facts['cost'] = _describe_cost(found)
    for label, differences in found.images.items():
        facts['images' + f' of {label}' * (label != 'teacher')] = (
            "normalised differently: the teacher gets its own mean, std and channel order, but "
            "the student's padding" if differences else 'student and teacher prepare them alike')
    console.print()
    for label, source in found.weights.items():
        # Not folded, so that an address can be copied.
        console.print(f"{label}'s weights: {source}", soft_wrap=True)
    grid = Table.grid(padding=(0, 2))
    for fact in facts.items():
        grid.add_row(*fact)
    console.print(grid)
    for label, differences in found.images.items():
        if differences:
            console.print(_table(('', 'student', label),
                                 ((name, *values) for name, values in differences.items())))


def _describe_cost(found: Inspection) -> str:
    of_students = [measured.flops for side, (_, measured) in found.networks.items()
                   if measured and side.startswith('student')]
    step = 3 * sum(of_students)
    of_teachers = [f'{flops / 1e9:.2f}' for flops in found.teacher_flops.values()]
    several = len(of_teachers) > 1
    added = sum(found.teacher_flops.values())
    total = f' = {added / 1e9:.2f}' if several else ''
    tasks = ''
    if found.task_flops:
        added += found.task_flops
        tasks = f' and of adapters, losses and Avatars ({found.task_flops / 1e9:.2f} G)'
    return (f'distillation adds about {added / step:.0%} to a training step: an estimate, from '
            f'the FLOPs of {"each" if several else "the"} teacher to its deepest tap '
            f'({" + ".join(of_teachers)}{total} G){tasks} against three times those of the '
            f'student{"s" * (len(of_students) > 1)} ({sum(of_students) / 1e9:.2f} G)')


def _print_lines(what: str, lines: list[str], style: str, console: Console) -> None:
    if lines:
        console.print(f'\n{len(lines)} {what}{"s" * (len(lines) > 1)}:', style=style)
        # Never folded, so that it can be searched for and copied.
        console.print(numbered(lines), soft_wrap=True)
