"""The teachers' own scores."""
import copy
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.progress import track
from torch import nn

from ..distillers.teacher import Teacher
from ..utils.errors import ConfigError, ConfigProblems, suggest
from ..utils.references import resolve_model
from ..utils.rng import preserve_rng
from .atomic_checkpoint_hook import AtomicLocalBackend
from .runner import is_training, unwrapped_model

# Metrics that rate a network, by the end of their names, and the score of a perfect one.
_PERFECT = dict(mAP=1, AP=1, AP50=1, mIoU=100, mDice=100, mFscore=100, PQ=100)
_CAUSES = ("its class list or their order differs from the data set's, its checkpoint was "
           'trained on other data, or its data_preprocessor is not the one it was trained with')


@HOOKS.register_module()
class TeacherEvalHook(Hook):
    """Evaluates the teacher once before training and logs its score beside the student's.

    The teacher receives the images of ``val_dataloader`` through its own ``data_preprocessor``, in
    float32, and is scored by a new evaluator built from ``val_evaluator``. Every validation of the
    student then also logs ``teacher/<metric>``. The hook warns if the score is below 1 % of a
    perfect one, or no better than the student's at the first validation. Both use the first metric
    whose name ends in mAP, AP, AP50, mIoU, mDice, mFscore or PQ.

    Of several teachers each is scored on its own and logged as ``teacher.<name>/<metric>``.

    The score is cached in a file named by a SHA-256 of everything that it depends on: the
    teacher's weights as loaded, the teacher's config, the config, length and annotations of the
    data set, the batch size and the config of the evaluator. A resumed run, or any run with the
    same teacher and data, reads this file. It does not notice images or label maps that are
    changed in place; delete it then.

    The trained student is the same with and without the hook, bit for bit.

    Args:
        cache_dir (str, optional): Folder of the cached scores. Defaults to None,
            ``mmakd/teacher_scores`` in torch hub's folder.
        teachers (Sequence[str], optional): Names of those of several teachers that are scored;
            one of another package, or an average of the student, cannot be. Defaults to None, all.

    Attributes:
        scores (dict[str, dict[str, float]]): The scores by metric of each teacher, ``'teacher'``
            or ``'teacher.<name>'``; empty before training.
    """

    # After RuntimeInfoHook, which notes the student's metrics; before LoggerHook, which reads.
    priority = 'NORMAL'

    def __init__(self, cache_dir: str | None = None,
                 teachers: Sequence[str] | None = None) -> None:
        if cache_dir is not None and (not isinstance(cache_dir, str) or not cache_dir):
            raise ConfigError(f'cache_dir={cache_dir!r}: must be None or the path of a folder')
        self.cache_dir = cache_dir
        self.teachers = teachers
        self.scores: dict[str, dict[str, float]] = {}

    def before_run(self, runner: Runner) -> None:
        """Raise a :class:`ConfigError` if there is no teacher, not these, or no validation."""
        if not is_training(runner):
            return
        problems = ConfigProblems()
        known = getattr(unwrapped_model(runner), 'teachers', {})
        if not known:
            problems.add('TeacherEvalHook: the model has no teacher; remove the hook or train '
                         "model=dict(type='AvatarDistiller', ...)")
        elif 'teacher' not in runner.cfg.get('model', {}):
            problems.add("TeacherEvalHook: the runner's config has no model.teacher; build the "
                         'runner by Runner.from_cfg')
        elif self.teachers is not None and (isinstance(self.teachers, str) or
                                            not set(self.teachers) <= set(known)):
            problems.add(f'TeacherEvalHook.teachers={self.teachers!r}: must be None or a list of '
                         f'names of teachers; {suggest("", known)}')
        for name, teacher in known.items():
            if teacher.is_average and (self.teachers is None or name in self.teachers):
                problems.add(f'TeacherEvalHook.teachers={self.teachers!r}: the {teacher.label} is '
                             'the average of the student, which has no score before training; '
                             'name the other teachers, or remove the hook')
        if runner.val_loop is None or not runner.cfg.get('val_evaluator'):
            problems.add('TeacherEvalHook: the config has no validation; remove the hook or give '
                         'val_cfg, val_dataloader and val_evaluator')
        problems.raise_if_any()

    def before_train(self, runner: Runner) -> None:
        """Read the teachers' scores from the cache, or evaluate them.

        Raises:
            ConfigError: If a teacher's predictions do not fit the evaluator.
        """
        teachers: Any = unwrapped_model(runner).teachers
        for name, teacher in teachers.items():
            if self.teachers is None or name in self.teachers:
                self.scores[teacher.label] = self._score(runner, teacher)

    def _score(self, runner: Runner, teacher: Teacher) -> dict[str, float]:
        folder = Path(self.cache_dir or Path(torch.hub.get_dir(), 'mmakd', 'teacher_scores'))
        found: list[Any] = [None]
        if is_main_process():
            path = folder / f'{_score_name(runner, teacher)}.json'
            found = [load_scores(path)]
        # All ranks evaluate, or none.
        broadcast_object_list(found)
        source = ' (cached)'
        if found[0] is None:
            print_log(f'Evaluating the {teacher.label} on the validation set', 'current')
            found, source = [_evaluate(runner, teacher)], ''
            if is_main_process():
                save_scores(path, found[0], teacher_ckpt=teacher.checkpoint)
        scores = found[0]
        listed = ', '.join(f'{metric}: {score:.4f}' for metric, score in scores.items())
        print_log(f"The {teacher.label}'s score{source}: {listed or 'none'}", 'current')
        main = main_metric(scores)
        if not scores:
            _warn(f'The {teacher.label} has no score: it finds nothing at all, or val_evaluator '
                  'only writes files')
        elif main and not scores[main] > 0.01 * _PERFECT[_kind(main)]:
            _warn(f'The {teacher.label} scores next to nothing ({main}: {scores[main]:.4f})')
        return scores

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the teachers' scores, and compare them with the student's first ones."""
        hub = runner.message_hub
        for label, scores in self.scores.items():
            for metric, score in scores.items():
                hub.update_scalar(f'val/{label}/{metric}', score)
            main = main_metric(scores)
            # The hub's history comes back with a resumed training.
            if (main and metrics and main in metrics and not scores[main] > metrics[main]
                    and len(hub.get_scalar(f'val/{label}/{main}').data[0]) == 1):
                _warn(f'The {label} ({main}: {scores[main]:.4f}) is no better than the student '
                      f'at its first validation ({metrics[main]:.4f})')


def digest(network: nn.Module, *settings: Any) -> str:
    """Compute a SHA-256 of the weights of a network and the ``repr`` of all settings."""
    sha256 = hashlib.sha256(repr(settings).encode())
    for name, value in network.state_dict().items():
        sha256.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        sha256.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def load_scores(path: Path) -> dict[str, float] | None:
    """Read the scores by metric; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        scores = json.loads(path.read_text())['scores']
        return {metric: float(score) for metric, score in scores.items()}
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        print_log(f'{path} is damaged and not used ({type(error).__name__}: {error})',
                  'current', level=logging.WARNING)
        return None


def save_scores(path: Path, scores: dict[str, float], **notes: Any) -> None:
    """Write the scores by metric, with notes for a human reader; warn if that fails."""
    text = json.dumps(dict(notes, scores=scores), indent=1) + '\n'
    try:
        AtomicLocalBackend().put(text.encode(), path)
    except OSError as error:
        print_log(f'The scores are not kept: {error}', 'current', level=logging.WARNING)


def main_metric(scores: Iterable[str]) -> str | None:
    """Find the first metric that rates a network, as mAP or mIoU do; None if there is none."""
    return next((metric for metric in scores if _kind(metric) in _PERFECT), None)


def _kind(metric: str) -> str:
    return re.split('[/_]', metric)[-1]


def _warn(message: str) -> None:
    print_log(f'{message}. Perhaps {_CAUSES}.', 'current', level=logging.WARNING)


def _score_name(runner: Runner, teacher: Teacher) -> str:
    cfg = runner.cfg.model.teacher
    cfg = cfg if teacher.name is None else cfg[teacher.name].cfg
    dataset = runner.val_dataloader.dataset
    info = getattr(dataset, 'get_data_info', None)
    annotations = [info(i) for i in range(len(dataset))] if info else []
    return digest(teacher.network, resolve_model(cfg), runner.cfg.val_dataloader.dataset,
                  runner.val_dataloader.batch_size, len(dataset), annotations,
                  getattr(dataset, 'metainfo', None), runner.cfg.val_evaluator)


@torch.no_grad()
def _evaluate(runner: Runner, teacher: Teacher) -> dict[str, float]:
    # Tells its data preprocessor too, which the model's own ``to`` does not reach.
    network = teacher.network.to(next(teacher.network.parameters()).device)
    # A copy, so that the student's validation starts its own worker processes, and the draw of
    # their seed from the global stream stays where it was.
    dataloader = copy.copy(runner.val_dataloader)
    with preserve_rng():
        evaluator = runner.build_evaluator(runner.cfg.val_evaluator)
        evaluator.dataset_meta = getattr(dataloader.dataset, 'metainfo', None)
        try:
            for batch in track(dataloader, f'Evaluating the {teacher.label}',
                               disable=not is_main_process()):
                evaluator.process(data_samples=network.val_step(batch), data_batch=batch)
            metrics = evaluator.evaluate(len(dataloader.dataset))
        except (AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f'TeacherEvalHook: the {teacher.label} cannot be evaluated on the validation set '
                f'({type(error).__name__}: {error}). Perhaps {_CAUSES}; set that right, or remove '
                'the hook where the teacher need not predict these classes; of several teachers, '
                'teachers=[...] names those to evaluate') from error
    return {metric: float(score) for metric, score in metrics.items() if isinstance(score, Real)}
