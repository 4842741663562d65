"""Exact resume: an interrupted training gives the result of an uninterrupted one."""
import logging
from collections.abc import Iterator
from itertools import chain
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..utils.rng import mix_seed, seed_rng
from .seeded_data import SeededBatchSampler, seed_augmentations


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Resumes a training bit for bit.

    MMEngine saves no random states, and with this hook it need not: before each iteration the
    global streams of every rank (Python, NumPy, torch, CUDA) are reseeded from (seed, rank,
    iteration), and the augmentations of each image from (seed, rank, place in the training).
    Random numbers drawn in between (by validation, other hooks or the start of a resumed run), the
    number of workers and what they have prefetched make no difference.

    Student, optimizer, schedules, EMA, adapters, sigma and Avatars are exact when resumed from any
    checkpoint at the end of an epoch or, in iteration-based training, at any iteration. If the
    config or the checkpoint rules this out, a warning says why. Not covered are nondeterministic
    operators (set ``randomness.deterministic``), transforms with their own random generator, and
    the order in which more than two processes add their gradients.
    """

    # Before other hooks draw.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] = dict(parts=set())
        self._batches: SeededBatchSampler | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read the training settings that the checkpoint records."""
        recorded = checkpoint.get('meta', {}).get('exact_resume', {})
        self._checkpoint = dict(parts=set(checkpoint), **recorded)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the settings that a resumed training must share."""
        sampler = _sampler(runner.train_loop.dataloader)
        checkpoint['meta']['exact_resume'] = dict(
            world_size=get_world_size(), sampler_seed=getattr(sampler, 'seed', None))

    def before_train(self, runner: Runner) -> None:
        """Seed the augmentations, and warn where a resumed training cannot be exact."""
        _warn_of_config(runner)
        if runner.iter > 0:  # else weights were loaded, no training resumed
            _warn_of_checkpoint(runner, self._checkpoint)
            sampler = _sampler(runner.train_loop.dataloader)
            if self._checkpoint.get('sampler_seed') is not None and hasattr(sampler, 'seed'):
                sampler.seed = self._checkpoint['sampler_seed']  # the config may have none
        self._batches = seed_augmentations(runner.train_loop.dataloader,
                                           mix_seed(runner.seed, get_rank()))

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the place of the next batch in the training, which seeds its augmentations."""
        assert self._batches is not None
        self._batches.position = 0 if _replays(runner) else runner.iter
        _discard_loaded(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Reseed the global streams for this iteration."""
        seed_rng(mix_seed(runner.seed, get_rank(), runner.iter))


def _warn_of_config(runner: Runner) -> None:
    for name in sorted({type(part).__name__ for part in _walk(runner.train_loop.dataloader.dataset)
                        if hasattr(part, 'results_cache')}):
        _warn(f'the transform {name} remembers earlier images, which no checkpoint has')
    if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
        _warn('EarlyStoppingHook forgets the scores so far and restarts its patience')
    schedulers: Any = runner.param_schedulers or []
    for scheduler in chain(*schedulers.values()) if isinstance(schedulers, dict) else schedulers:
        if getattr(scheduler, 'need_val_args', False):
            _warn(f'{type(scheduler).__name__} follows the validation; one between the checkpoint '
                  'and the interruption is lost to it')


def _warn_of_checkpoint(runner: Runner, checkpoint: dict[str, Any]) -> None:
    loop = runner.train_loop
    if 'world_size' not in checkpoint:
        _warn('the checkpoint was saved without ExactResumeHook')
    elif checkpoint['world_size'] != get_world_size():
        _warn(f"the checkpoint was saved by {checkpoint['world_size']} processes, now there are "
              f'{get_world_size()}')
    needed = {'optimizer', 'param_schedulers'} if runner.param_schedulers else {'optimizer'}
    for part in sorted(needed - checkpoint['parts']):
        _warn(f'the checkpoint has no state of {part}, which restarts')
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if runner.iter % counts:
        _warn(f'the checkpoint of iteration {runner.iter} was saved while gradients were '
              f'accumulated over {counts} iterations, and those so far are lost; save checkpoints '
              f'at multiples of {counts} iterations')
    if isinstance(loop, EpochBasedTrainLoop) and runner.iter % len(loop.dataloader):
        _warn(f'the checkpoint of iteration {runner.iter} was saved within an epoch, which '
              'restarts; save checkpoints at the end of epochs')
    if getattr(loop, 'fast_forward_on_resume', False):
        _warn('train_cfg.fast_forward_on_resume=True restarts the data; remove it')


def _warn(reason: str) -> None:
    print_log(f'ExactResumeHook: a resumed training is not exact: {reason}', 'current',
              level=logging.WARNING)


def _walk(part: Any) -> Iterator[Any]:
    """Iterate over a dataset, the datasets that it wraps, and their transforms."""
    yield part
    inner = part if isinstance(part, (list, tuple)) else [
        getattr(part, name, ()) for name in ('dataset', 'datasets', 'pipeline', 'transforms')]
    for item in inner:
        yield from _walk(item)


def _replays(runner: Runner) -> bool:
    """Tell whether the loop will load all earlier batches again."""
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop) or getattr(loop, 'fast_forward_on_resume', False):
        return False
    # MMEngine from 0.10.8 on lets a sampler that can skip begin where the training was cut off.
    return not (hasattr(getattr(loop, 'dataloader_iterator', None), 'skip_iter')
                and hasattr(loop.dataloader.sampler, 'skip'))


def _discard_loaded(runner: Runner) -> None:
    """Load again the batches that were loaded before they could be seeded."""
    iterator: Any = getattr(runner.train_loop, 'dataloader_iterator', None)
    if getattr(iterator, '_iterator', None) is None:
        return  # MMEngine from 0.10.8 on waits
    dataloader = runner.train_loop.dataloader
    sampler = _sampler(dataloader)
    if hasattr(sampler, '_indices_of_rank'):
        sampler.indices = sampler._indices_of_rank()
    dataloader._iterator = None  # of persistent workers
    iterator._iterator = iter(dataloader)


def _sampler(dataloader: DataLoader) -> Any:
    return getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)
