"""Masked distillation with receptive tokens."""
from pathlib import Path

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.checkpoint import read_state_dict
from ..utils.errors import ConfigError, ConfigProblems, check_numbers
from .features import FeatureLoss, known_channels
from .mask_tokens import MaskTokens

_LEARN = ('learn the tokens of this teacher first, with a config like that of python '
          'tools/train.py configs/det/toy/maskd-tokens_retinanet_shapes.py, and name its '
          'checkpoint')


@MODELS.register_module()
class MasKDLoss(FeatureLoss, BaseModule):
    r"""Compares the positions that learned tokens mask on the teacher's map.

    MasKD (arXiv 2205.14589): each of T tokens gives a mask :math:`m_t` over ``preds_T``, and
    :math:`\frac{1}{N} \sum_n \sum_t \frac{w_t}{\sum_x m_t} \frac{1}{C} \sum_{c,x}
    (m_t S - m_t T)^2`, with learned weights :math:`\sum_t w_t = 1`. Later in the
    training the mask is multiplied by that of the same token on the student's map. In
    ``UncertaintyFeatureLoss`` both maps are divided by sigma, as in the authors' AKD code.

    The tokens are learned beforehand by :class:`mmakd.distillers.MaskTokenLearner` and then fixed.
    Like the teacher's weights they are read in :meth:`init_weights`, which the Runner calls before
    training.

    Args:
        tokens (str, optional): Path or URL of the checkpoint of a ``MaskTokenLearner``, or of
            the file that the authors published for a teacher. Defaults to None, which is an error
            when training begins.
        num_tokens (int): Number T of tokens in it. Defaults to 6.
        weight_masks (bool): Whether the masks are weighted for each image; otherwise all weights
            are equal. Defaults to True.
        student_masks_begin (int, optional): Iteration of the Runner from which the student's masks
            are used; None for never. Defaults to 7000.
        loss_weight (float): Factor on the loss, published for RetinaNet: 7. Defaults to 1.0.
        channels (int, optional): Channels of the maps; set by the distiller. Defaults to None,
            which is an error.
        level (int): Index of the level in ``tokens``; set by the distiller. Defaults to 0.
    """

    maps_only = True

    def __init__(self, tokens: str | None = None, num_tokens: int = 6, weight_masks: bool = True,
                 student_masks_begin: int | None = 7000, loss_weight: float = 1.0,
                 channels: int | None = None, level: int = 0) -> None:
        problems = ConfigProblems()
        if tokens is not None and not isinstance(tokens, (str, Path)):
            problems.add(f'tokens={tokens!r}: must be the path or the URL of a checkpoint')
        if not isinstance(num_tokens, int) or num_tokens < 1:
            problems.add(f'num_tokens={num_tokens!r}: must be an integer >= 1, e.g. 6')
        if student_masks_begin is not None and (not isinstance(student_masks_begin, int)
                                                or student_masks_begin < 0):
            problems.add(f'student_masks_begin={student_masks_begin!r}: must be None or an '
                         'integer >= 0, e.g. 7000')
        with problems.under(''):
            check_numbers(not_negative=dict(loss_weight=loss_weight))
        problems.raise_if_any()
        super().__init__(loss_weight)
        self.tokens = tokens
        self.student_masks_begin = student_masks_begin
        self.level = level
        channels = known_channels(channels, 'MasKDLoss')
        self.mask_tokens = MaskTokens(num_tokens, channels, weight_masks).requires_grad_(False)

    def init_weights(self) -> None:
        """Read the tokens.

        Raises:
            ConfigError: If there is no such file, or it holds no tokens for these maps.
        """
        super().init_weights()
        key = f'MasKDLoss.tokens={self.tokens!r}'
        if self.tokens is None:
            raise ConfigError(f'{key}: MasKD needs learned tokens; {_LEARN}')
        path = str(self.tokens)
        if '://' not in path and not Path(path).expanduser().is_file():
            raise ConfigError(f'{key}: no such file (a relative path starts at {Path.cwd()}); '
                              f'{_LEARN}')
        saved = read_state_dict(path, key)
        levels = sorted({name.split('.')[1] for name in saved if name.startswith('mask_modules.')})
        if str(self.level) not in levels:
            held = f'only for level {", ".join(levels)}' if levels else 'for no level at all'
            raise ConfigError(f'{key}: holds tokens {held}, but level {self.level} is compared; '
                              f'{_LEARN}')
        prefix = f'mask_modules.{self.level}.'
        learned = {name.removeprefix(prefix): value for name, value in saved.items()
                   if name.startswith(prefix)}
        own = self.mask_tokens.state_dict()
        expected, found = own['mask_token'].shape, learned['mask_token'].shape
        if found != expected:
            raise ConfigError(f'{key}: level {self.level} has {found[0]} tokens of {found[1]} '
                              f"channels, but num_tokens={expected[0]} and the teacher's map has "
                              f'{expected[1]} channels; set num_tokens={found[0]} if only that '
                              f'differs, otherwise {_LEARN}')
        if set(own) - set(learned):
            raise ConfigError(f'{key}: learned with weight_masks=False; set weight_masks=False '
                              'here too')
        self.mask_tokens.load_state_dict({name: learned[name] for name in own})
        print_log(f'Tokens of level {self.level} loaded from {path}', 'current')

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        begin = self.student_masks_begin
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        with torch.no_grad():
            masks = self.mask_tokens.masks(preds_T)
            weights = self.mask_tokens.weights(preds_T)
            if begin is not None and iteration >= begin:
                masks = masks * self.mask_tokens.masks(preds_S)
            # Beyond the smallest area nothing is marked, and nothing compared.
            area = masks.sum((2, 3)).clamp(min=1e-6)
            share = (weights / area)[..., None, None].mul(masks.square()).sum(1)
        difference = (preds_S - preds_T).square().mean(1)
        return self.loss_weight * (share * difference).sum() / len(preds_S)
