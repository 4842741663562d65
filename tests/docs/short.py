"""What runs ahead of each Python command of the docs, so that it takes a second.

Trainings skip all but their first and last iteration or epoch, and so end with the checkpoints
that the pages name. Few images are drawn. Of what needs COCO or Cityscapes, command line and
config are read; tests/integration/test_configs.py takes a step with each of these configs.
"""
import argparse
import os
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

ABSENT = 'data/coco', 'data/cityscapes'
COUNT = 16, 8
# Likewise what takes minutes and that these tests run.
READ_ONLY = {
    'benchmark_speed.py': 'tests/tools/test_benchmark_speed.py',
    'gpu_check.py': 'tests/tools/test_gpu_check.py',
    'study.py why': 'tests/tools/test_study.py',
}


@LOOPS.register_module(name='IterBasedTrainLoop', force=True)
class FirstAndLastIteration(IterBasedTrainLoop):

    def run_iter(self, data_batch: Any) -> None:
        super().run_iter(data_batch)
        self._iter = max(self._iter, self._max_iters - 1)


@LOOPS.register_module(name='EpochBasedTrainLoop', force=True)
class FirstAndLastEpoch(EpochBasedTrainLoop):

    def run(self) -> torch.nn.Module:
        # Detectors this young have no score above a threshold.
        for module in self.runner.model.modules():
            if getattr(module, 'test_cfg', None) and 'score_thr' in module.test_cfg:
                module.test_cfg.score_thr = 0.0
        return super().run()

    def run_epoch(self) -> None:
        super().run_epoch()
        self._epoch = max(self._epoch, self._max_epochs - 1)


parse_args = argparse.ArgumentParser.parse_args


def shorten(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> argparse.Namespace:
    """Parse as ever, then leave most of the work out."""
    args = parse_args(parser, *given, **named)
    name = ' '.join([Path(sys.argv[0]).name, *filter(None, [vars(args).get('command')])])
    if name == 'make_shapes.py':
        args.count = args.count or COUNT
    elif name == 'study.py run':
        vars(args).update(arms=['plain'], task=['seg'], data=['shapes'], iters=2, seeds=[range(1)])
    elif 'training_script' in args and is_published(args.training_script_args[0]):
        # One process reads the command line.
        sys.argv = [args.training_script, *args.training_script_args]
        runpy.run_path(args.training_script, run_name='__main__')
        sys.exit()
    if name in READ_ONLY or vars(args).get('data') in ABSENT or any(
            map(is_published, configs_of(args))):
        for config in configs_of(args):
            Config.fromfile(config).merge_from_dict(vars(args).get('cfg_options') or {})
        sys.exit()
    return args


def configs_of(args: argparse.Namespace) -> list[str]:
    """List the configs of a command line."""
    one = vars(args).get('config')
    return [one] if one else vars(args).get('configs', [])


def is_published(config: str) -> bool:
    """Tell whether a config is for data that are not here."""
    text = str(Config.fromfile(config).to_dict())
    return any(f"'data_root': '{folder}" in text for folder in ABSENT)


argparse.ArgumentParser.parse_args = shorten  # type: ignore[method-assign,assignment]

name, *arguments = [part for part in sys.orig_argv[1:] if part not in ('-u', '-m')]
if name == 'tools/demo.py':
    from shapes import dataset
    dataset.make_shapes = partial(dataset.make_shapes, count=COUNT)
if name == 'venv':
    # An environment is as good as any.
    Path(arguments[0]).mkdir()
    Path(arguments[0], 'bin').symlink_to(Path(os.environ['VIRTUAL_ENV'], 'bin'))
    sys.exit()
