"""Trains cell after cell, beside other processes that do the same."""
import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from trials.cells import Cell
from trials.plan import Plan
from trials.results import claim
from trials.training import CellError, current_commit, prepare, train_in_process

# Seconds between looks at what other processes train.
_PAUSE = 5


def train_all(plan: Plan, console: Console) -> list[CellError]:
    """Train what is missing, and wait for what other processes train of it.

    Args:
        plan (Plan): What to train.
        console (Console): Where to show progress.

    Returns:
        list[CellError]: What has failed.
    """
    missing = plan.num_missing()
    if not missing:
        return []
    prepare()
    commit = current_commit()
    failed: dict[Cell, CellError] = {}
    # Without a thread that refreshes it: cells are forked.
    with Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
                  console=console, auto_refresh=False) as bars:
        bar = bars.add_task('')
        began = time.monotonic()
        done = 0
        while True:
            cell, is_busy = _train_next(plan, failed, commit, bars, bar)
            if cell is None and not is_busy:
                return list(failed.values())
            if cell is None:
                time.sleep(_PAUSE)
            plan.refresh()
            left = plan.num_missing()
            done += cell is not None
            # The searches add cells as they go.
            finished = max(missing - left, done)
            seconds = (time.monotonic() - began) / max(finished, 1) * left
            bars.update(bar, completed=finished, total=finished + left, refresh=True,
                        description=f'about {timedelta(seconds=round(seconds))} left')
            if cell is not None:
                _report(plan, cell, failed, f'{left} left, about '
                        f'{timedelta(seconds=round(seconds))}', console)


def _train_next(plan: Plan, failed: dict[Cell, CellError], commit: str, bars: Progress, bar: TaskID
                ) -> tuple[Cell | None, bool]:
    """Train the first cell that no other process trains; also tell whether there are others."""
    is_busy = False
    for cell in plan.cells():
        if cell in failed:
            continue
        with claim(Path(f'{cell.work_dir}.lock')) as is_ours:
            if not is_ours:
                is_busy = True
                continue
            plan.refresh()
            if plan.is_finished(cell):  # since the claim of the other process ended
                return None, True
            bars.update(bar, description=str(cell), refresh=True)
            try:
                train_in_process(cell, plan.results, commit)
            except CellError as error:
                failed[cell] = error
            return cell, True
    return None, is_busy


def _report(plan: Plan, cell: Cell, failed: dict[Cell, CellError], rest: str, console: Console
            ) -> None:
    if cell in failed:
        text = f'failed: {failed[cell]}'
    else:
        record = plan.result(cell)
        metric = '-' if record['metric'] is None else f'{record["metric"]:.2f}'
        text = f'{cell}: {metric} {record["unit"]} in {record["seconds"]:.0f} s'
    console.print(f'{text}; {rest}', soft_wrap=True, markup=False, highlight=False)
