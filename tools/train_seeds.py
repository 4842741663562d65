"""Train configs with several seeds each, and print mean and deviation of their metric.

Seeds vary initialisation, data order and augmentation together; configs with the same seed share
them, so they are compared in pairs. A training that was stopped goes on from its last checkpoint.
A finished one, whose result is in the results file, never runs again unless its config changes: on
the project's own results the commands below only print.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from mmengine.config import Config
from rich.console import Console

from mmakd.hooks.atomic_checkpoint_hook import AtomicLocalBackend
from mmakd.hooks.teacher_eval_hook import main_metric
from mmakd.utils.cli import add_cfg_options, config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, ConfigProblems
from plot_log import read_log

_EPILOG = """\
exit status: 0; 1 with a message if a config is wrong or a training fails; 2 for a wrong command
line.

example:
  python tools/train_seeds.py configs/seg/toy/{student,cwd,akd-cwd}_pspnet_shapes.py \\
      --results docs/family.json
  python tools/train_seeds.py my_student.py my_akd_student.py --gpus 8"""
_TOOLS = Path(__file__).parent
# What does not change a result.
_LAUNCH = ('launcher', 'load_from', 'resume', 'work_dir')


class Run(NamedTuple):
    """One training."""

    config: str
    seed: int
    digest: str
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """str: Its place in the results file."""
        return f'{Path(self.config).stem} seed {self.seed}'

    @property
    def work_dir(self) -> Path:
        """Path: Where it trains; another config has another folder."""
        return Path('work_dirs/seeds', f'{Path(self.config).stem}_{self.seed}_{self.digest}')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG',
                        help='paths of configs; the others are compared with the first')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N',
                        help='seeds (default: 0 1 2)')
    parser.add_argument('--results', type=Path, default=Path('work_dirs/seeds/results.json'),
                        metavar='FILE.json', help='file of the results (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=2, metavar='N',
                        help='trainings at a time, of one thread each on the CPU '
                        '(default: %(default)s)')
    parser.add_argument('--gpus', type=int, metavar='N',
                        help='one training at a time, on N GPUs (by tools/dist_train.sh)')
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if min(args.seeds) < 0 or min(args.jobs, args.gpus or 1) < 1:
        parser.error('--seeds must not be negative, and --jobs and --gpus be positive')
    return args


def plan(configs: Sequence[str], seeds: Sequence[int],
         options: Mapping[str, Any] | None = None) -> list[Run]:
    """List the trainings, seed by seed, with the options of ``--cfg-options``.

    Raises:
        ConfigError: If a config cannot be read.
    """
    problems = ConfigProblems()
    digests = {}
    for path in configs:
        with problems.under(''):
            digests[path] = _digest(read_config(path, options))
    problems.raise_if_any()
    given = tuple(f'{key}={value}' for key, value in (options or {}).items())
    return [Run(path, seed, digest, given) for seed in seeds for path, digest in digests.items()]


def _digest(cfg: Config) -> str:
    kept = {key: value for key, value in cfg.to_dict().items() if key not in _LAUNCH}
    text = json.dumps(kept, sort_keys=True, default=str)
    # A teacher named by its path has the folder of this machine in it.
    text = text.replace(str(_TOOLS.parent.resolve()), '').replace(str(_TOOLS.parent), '')
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Read the results by training; none if there is no file yet."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f'--results={str(path)!r}: damaged ({error})') from error


def train(run: Run, console: Console, gpus: int | None = None) -> dict[str, Any]:
    """Bring a training to its end, on the CPU or on several GPUs; return its metrics.

    Raises:
        ConfigError: If it fails.
    """
    console.print(f'{run.key}: trains in {run.work_dir}', soft_wrap=True)
    run.work_dir.mkdir(parents=True, exist_ok=True)
    log = run.work_dir / 'log.txt'
    launch: list[str | Path] = ([_TOOLS / 'dist_train.sh', run.config, str(gpus)] if gpus else
                                [sys.executable, _TOOLS / 'train.py', run.config])
    with log.open('a') as file:
        done = subprocess.run(
            [*launch, '--work-dir', run.work_dir, '--resume',
             '--cfg-options', *run.options, f'randomness.seed={run.seed}'],
            stdout=file, stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable), check=False)
    if done.returncode:
        end = ''.join(log.read_text(errors='replace').splitlines(keepends=True)[-12:])
        raise ConfigError(f'{run.key}: ended with status {done.returncode}; the end of {log}:\n'
                          f'{end}')
    val = read_log(str(run.work_dir)).val
    metrics = {key: round(curve.values[-1], 4) for key, curve in val.items()
               if main_metric([key])}
    console.print(f'{run.key}: {metrics}', soft_wrap=True)
    return dict(config=run.digest, metrics=metrics)


def make_table(runs: Sequence[Run], results: dict[str, dict[str, Any]]) -> str:
    """Make a Markdown table, a row for each config and, of several students, each student."""
    by_row: dict[str, dict[int, float]] = {}
    for run in runs:
        metrics = results[run.key]['metrics']
        main = main_metric(metrics) or next(iter(metrics), '')
        for metric, score in metrics.items():
            if metric == main or metric.endswith(f'/{main}'):
                name = Path(run.config).stem
                student = metric.removesuffix(main).rstrip('/')
                scale = 100 if 'mAP' in metric else 1
                by_row.setdefault(f'{name}, {student}' if student else name, {})[run.seed] = (
                    scale * score)
    first = next(iter(by_row.values()))
    lines = ['| config | mean | deviation | seeds | minus the first |', '|---|---|---|---|---|']
    for name, scores in by_row.items():
        values = list(scores.values())
        gaps = [score - first[seed] for seed, score in scores.items()]
        lines.append(
            f'| {name} | {mean(values):.1f} | {stdev(values) if len(values) > 1 else 0:.1f} | '
            f'{", ".join(f"{value:.1f}" for value in values)} | {mean(gaps):+.1f} |')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and print the table.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    console = Console(highlight=False, markup=False, emoji=False, stderr=True)
    runs = plan(args.configs, args.seeds, args.cfg_options)
    results = read_results(args.results)
    missing = [run for run in runs if results.get(run.key, {}).get('config') != run.digest]
    problems = ConfigProblems()
    with ThreadPoolExecutor(1 if args.gpus else args.jobs) as pool:
        for run, future in [(run, pool.submit(train, run, console, args.gpus)) for run in missing]:
            with problems.under(''):
                results = {**read_results(args.results), run.key: future.result()}
                text = json.dumps(dict(sorted(results.items())), indent=1) + '\n'
                AtomicLocalBackend().put(text.encode(), args.results)
    problems.raise_if_any()
    print(make_table(runs, results))


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
