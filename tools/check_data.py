"""Check the data of a training before hours are wasted: files, numbers, annotations, images.

DATA is a config, whose data sets are checked as the training reads them, or a folder of COCO 2017
or Cityscapes. All problems are told at once, with a few examples each and what to do:

  COCO        JSON that can be read, no id twice, images and categories that exist, boxes inside
              their images, the categories of the config; all images there, decodable, and of
              the stated size
  Cityscapes  a *_gtFine_labelTrainIds.png of the same size for each image, with the class ids
              0 to 18 and 255 (of another data set: its own classes)

Number of images and annotations, and the ids of the categories, are compared with the published
ones where the annotations are named instances_{train,val}2017.json, or the data set is a
CityscapesDataset.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console

from mmakd.checks.parts import SPLITS, quiet
from mmakd.utils.build import build
from mmakd.utils.cli import add_cfg_options
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, numbered

_EPILOG = """\
exit status: 0 without problems, 1 with problems, 2 for a wrong command line. Notes change nothing.

examples:
  python tools/check_data.py data/coco
  python tools/check_data.py data/cityscapes --full
  python tools/check_data.py my_akd.py --cfg-options train_dataloader.dataset.data_root=/data/mine
  python tools/check_data.py configs/seg/toy/akd-cwd_pspnet_shapes.py"""
_CONFIGS = Path(__file__).parents[1] / 'configs/_base_/datasets'
# What tells the kind of a folder: what is in it, or its name.
_KINDS = dict(coco=('coco_detection.py', ('annotations', 'train2017', 'val2017')),
              cityscapes=('cityscapes.py', ('leftImg8bit', 'gtFine')))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', metavar='DATA',
                        help='path of a config, or a folder of COCO 2017 or Cityscapes')
    parser.add_argument('--full', action='store_true',
                        help='decode all images; otherwise about 500 of each split')
    parser.add_argument('--any-size', action='store_true',
                        help='do not compare with the published numbers: part of the data is '
                        'meant')
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    args.kind = None
    if not args.data.endswith('.py'):
        folder = Path(args.data)
        args.kind = next((kind for kind, (_, inside) in _KINDS.items()
                          if any((folder / name).exists() for name in inside)),
                         next((kind for kind in _KINDS if kind in folder.name), None))
        if args.kind is None:
            parser.error(f'DATA={args.data!r}: neither a config nor a folder of COCO '
                         '(annotations, train2017, val2017) or Cityscapes (leftImg8bit, gtFine); '
                         'for other data name the config that reads them')
    return args


def load_data_config(args: argparse.Namespace) -> Config:
    """Read the config, or for a folder the one that our configs read it by.

    Raises:
        ConfigError: If it cannot be read.
    """
    if args.kind is None:
        return read_config(args.data, args.cfg_options)
    cfg = read_config(_CONFIGS / _KINDS[args.kind][0], args.cfg_options)
    for split in SPLITS:
        cfg[f'{split}_dataloader'].dataset.data_root = args.data
    return cfg


def find_datasets(part: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and config of a data set, or of all that a wrapper holds."""
    if isinstance(part, (list, tuple)):
        for i, item in enumerate(part):
            yield from find_datasets(item, f'{key}.{i}')
    elif isinstance(part, dict):
        inner = [name for name in ('dataset', 'datasets', 'labelled', 'unlabelled')
                 if name in part]
        for name in inner:
            yield from find_datasets(part[name], f'{key}.{name}')
        if not inner:
            yield key, part


def check(cfg: Config, full: bool, any_size: bool) -> Any:
    """Check all data sets of a config.

    Args:
        cfg (Config): The config.
        full (bool): Whether to decode all images.
        any_size (bool): Whether published numbers do not count.

    Returns:
        Findings: What was found.
    """
    with quiet():  # not before: they take seconds, which --help need not wait for
        from mmdet.datasets import CocoDataset
        from mmseg.datasets import BaseSegDataset

        from data_checking.coco import check_coco
        from data_checking.findings import Findings
        from data_checking.label_maps import check_label_maps
    findings = Findings(full)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    seen: list[dict[str, Any]] = []
    for split in SPLITS:
        key = f'{split}_dataloader'
        loader = cfg.get(key) or {}
        for place, wanted in find_datasets(loader.get('dataset'), f'{key}.dataset'):
            wanted = {**wanted, 'pipeline': [], 'lazy_init': True}
            if wanted in seen:
                continue
            seen.append(wanted)
            with findings.problems.attempt(place):
                dataset = build(wanted, DATASETS)
                findings.facts.append(f'{place}: {type(dataset).__name__} of '
                                      f'{dataset.data_root or "no data_root"}')
                if isinstance(dataset, CocoDataset):
                    check_coco(dataset, any_size, findings)
                elif isinstance(dataset, BaseSegDataset):
                    check_label_maps(dataset, any_size, '.unlabelled' not in place, findings)
                else:
                    raise ConfigError(f'.type={wanted["type"]!r}: not checked; this script '
                                      "knows data in COCO's format and label maps")
    if not seen:
        findings.problems.add('train_dataloader: missing; name a config that has data')
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """Check data and print what was found.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        findings = check(load_data_config(args), args.full, args.any_size)
    except ConfigError as error:
        console.print(f'error: {error}', style='red')
        return 1
    console.print('\n'.join(findings.facts))
    for name, lines, style in (('note', findings.problems.warnings, 'yellow'),
                               ('problem', findings.problems.problems, 'red')):
        if lines:
            console.print(f'{len(lines)} {name}{"s" * (len(lines) > 1)}:\n{numbered(lines)}',
                          style=style)
    if not findings.problems.problems:
        console.print('No problem found.', style='green')
    elif args.kind:
        console.print('Other data in these formats: name the config that reads them instead of '
                      'the folder.')
    return 1 if findings.problems.problems else 0


if __name__ == '__main__':
    sys.exit(main())
