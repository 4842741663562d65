"""The maps of a frozen teacher, computed once for all cells that it teaches."""
import copy
import hashlib
import io
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmakd.distillers.tap_pair import TapPair
from mmakd.distillers.taps import FeatureTaps
from mmakd.distillers.teacher import Teacher
from mmakd.hooks.atomic_checkpoint_hook import AtomicLocalBackend
from mmakd.utils.rng import preserve_rng
from trials.results import locked


class TeacherMaps(NamedTuple):
    """Maps of one tap, of all training images as they are and flipped.

    Args:
        rows (dict[tuple[str, bool], int]): Row of an image, by file name and whether flipped.
        levels (list[Tensor]): One tensor (number of rows, C, H, W) for each map.
    """

    rows: dict[tuple[str, bool], int]
    levels: list[Tensor]


@HOOKS.register_module()
class TeacherMapsHook(Hook):
    """Lets teachers look up their maps; the students are the same bit for bit.

    The only random change to a training image is its flip, so a frozen teacher has two maps an
    image. A teacher whose Avatars are made upstream of the tap still runs.

    Args:
        folder (str): Where maps are kept.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train(self, runner: Runner) -> None:
        """Compute what is missing, and have it looked up."""
        for name, teacher in runner.model.teachers.items():
            pairs = [pair for pair in runner.model.taps.values() if pair.of == name]
            if all(pair.perturb_at is None for pair in pairs):
                found = {pair.teacher: self._read(runner, teacher, pair) for pair in pairs}
                teacher.run = partial(look_up, teacher, found)

    def _read(self, runner: Runner, teacher: Teacher, pair: TapPair) -> TeacherMaps:
        weights = fingerprint(Path(teacher.checkpoint or ''))
        path = self.folder / f'maps_{weights}_{pair.teacher}.pth'
        with path.with_suffix('.lock').open('a') as lock, locked(lock.fileno()):
            if not path.exists():
                with preserve_rng():
                    save_whole(_compute(runner, teacher, pair)._asdict(), path)
        return TeacherMaps(**torch.load(path, mmap=True))


def fingerprint(path: Path) -> str:
    """Tell the weights in a file from others."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def save_whole(value: Any, path: Path) -> None:
    """Save as ``torch.save`` does, the whole file at once."""
    file = io.BytesIO()
    torch.save(value, file)
    AtomicLocalBackend().put(file.getvalue(), path)


def look_up(teacher: Teacher, found: dict[str, TeacherMaps], pairs: Collection[TapPair],
            inputs: Tensor, data_samples: list) -> FeatureTaps:
    """Return what :meth:`mmakd.distillers.teacher.Teacher.run` would."""
    taps = FeatureTaps(teacher.network, found)
    keys = [_key(sample) for sample in data_samples]
    for tap, (rows, levels) in found.items():
        where = torch.tensor([rows[key] for key in keys])
        taps.features[tap] = [level[where].to(inputs.device) for level in levels]
    return taps


def _compute(runner: Runner, teacher: Teacher, pair: TapPair) -> TeacherMaps:
    """Run the teacher on each image, as it is and flipped."""
    rows: dict[tuple[str, bool], int] = {}
    batches = []
    cfg = copy.deepcopy(runner.cfg.train_dataloader)
    cfg.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.dataset.pop('indices', None)  # cells with fewer images share the file
    flip = next(step for step in cfg.dataset.pipeline if step.type == 'RandomFlip')
    for flip.prob in 0.0, 1.0:
        for batch in Runner.build_dataloader(cfg, seed=0):
            data = runner.model.data_preprocessor(batch, True)
            batches.append(teacher.run([pair], **data).features[pair.teacher])
            for sample in data['data_samples']:
                rows[_key(sample)] = len(rows)
    return TeacherMaps(rows, [torch.cat(level).cpu() for level in zip(*batches)])


def _key(sample: Any) -> tuple[str, bool]:
    return Path(sample.img_path).name, sample.flip
