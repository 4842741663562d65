"""An interrupted training that ends as the uninterrupted one."""
import logging
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..rng import mix_seed, rng_state, set_rng_state
from .seeded_data import seed_augmentations

_KEY = 'rng_states'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Resumes a training bit for bit.

    MMEngine's checkpoints hold no random states. This hook adds those of every rank (Python,
    NumPy, torch, CUDA) and puts them back on resume, keeps validation from moving them, and makes
    the augmentations of a batch depend on the seed and on its place in the training alone, so
    that neither the number of workers nor what they loaded before plays a part.

    Exact are student, optimizer, schedules, adapters, sigma and Avatars, for checkpoints at the
    end of an epoch or, in an iteration-based training, at any iteration, on the same number of
    processes. Not covered are operators that are not deterministic in themselves (set
    ``randomness.deterministic``), transforms that remember earlier images (``CachedMosaic``), and
    checkpoints in the middle of an accumulated gradient, of which a warning is given.
    """

    # Behind whatever else draws before the first iteration.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._before_val: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Seed the augmentations, and say where the resumed run cannot be exact.

        Args:
            runner (Runner): The runner of the training process.
        """
        loop = runner.train_loop
        sampler = _sampler(loop.dataloader)
        if runner.iter == 0:
            self._saved = None  # weights were loaded, not a training resumed
        elif self._saved is None:
            _warn('the checkpoint holds no random states (it was saved without ExactResumeHook)')
        elif len(self._saved['states']) != get_world_size():
            _warn(f"the checkpoint is one of {len(self._saved['states'])} processes, now there "
                  f'are {get_world_size()}')
            self._saved = None
        elif hasattr(sampler, 'seed'):
            sampler.seed = self._saved['sampler_seed']  # drawn anew where the config has none
        counts = runner.optim_wrapper._accumulative_counts
        if runner.iter % counts:
            _warn(f'the checkpoint of iteration {runner.iter} lies within a gradient accumulated '
                  f'over {counts} iterations, whose first part is lost; have checkpoints saved at '
                  f'multiples of {counts}')
        # A sampler that can skip begins where the training was cut off; others are replayed.
        iterator: Any = getattr(loop, 'dataloader_iterator', None)
        skips = iterator is None or (hasattr(iterator, 'skip_iter') and hasattr(sampler, 'skip'))
        seed_augmentations(loop.dataloader, mix_seed(runner.seed, get_rank()),
                           (lambda: runner.iter) if skips else (lambda: 0))
        if getattr(iterator, '_iterator', None) is not None:  # MMEngine before 0.10.8
            iterator._iterator = iter(loop.dataloader)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Put the states back, behind whatever draws at the start of a training.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
        """
        if self._saved is not None:
            set_rng_state(self._saved['states'][get_rank()])
            self._saved = None

    def before_val(self, runner: Runner) -> None:
        """Take down the states.

        Args:
            runner (Runner): The runner of the validation process.
        """
        self._before_val = rng_state()

    def after_val(self, runner: Runner) -> None:
        """Put them back: a resumed training does not repeat the validation.

        Args:
            runner (Runner): The runner of the validation process.
        """
        if self._before_val is not None:
            set_rng_state(self._before_val)
            self._before_val = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the states of all ranks.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): What is saved.
        """
        checkpoint[_KEY] = dict(
            # ``save_best`` saves within the validation.
            states=all_gather_object(self._before_val or rng_state()),
            sampler_seed=getattr(_sampler(runner.train_loop.dataloader), 'seed', None))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the states until training goes on.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): What was loaded.
        """
        self._saved = checkpoint.get(_KEY)


def _sampler(dataloader: DataLoader) -> Any:
    return getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)


def _warn(reason: str) -> None:
    print_log(f'ExactResumeHook: this resume is not exact: {reason}', 'current',
              level=logging.WARNING)
