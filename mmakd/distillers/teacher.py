"""The frozen teacher."""
from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from .checkpoint import load_teacher_checkpoint
from .fuse_conv_bn import CONVOLUTIONS, fuse_conv_bn
from .memory_format import use_channels_last
from .renormalize import renormalize, same_normalization
from .roi import RoIRecorder
from .tap_pair import TapPair, dense_taps, run_roi_heads
from .taps import FeatureTaps, forward_to_taps


class Teacher:
    """A frozen network that gives features and is no part of the model it teaches.

    It is deliberately no ``nn.Module``: absent from parameters, state dict, optimizer and DDP
    buckets, and shared, not copied, by ``deepcopy`` (as in EMAHook).

    The first batch behind :meth:`load` makes the network faster for good: its BatchNorms are
    folded into its convolutions, and these work in the memory format that suits the device, with
    weights in ``precision``. Features stay the same to rounding; its state dict does not.

    Args:
        network (BaseModel): The detector or segmentor.
        student_preprocessor (nn.Module): The student's ``data_preprocessor``, whose images the
            teacher receives.
        checkpoint (str, optional): Path or URL of its weights; None keeps the random ones.
        strict (bool): Whether the checkpoint must match key by key.
        precision (torch.dtype, optional): Autocast type of its forward pass, float32 for none;
            None follows the student's step.
        pairs (Collection[TapPair]): All places where it is ever tapped. Defaults to ().
    """

    def __init__(self, network: BaseModel, student_preprocessor: nn.Module,
                 checkpoint: str | None, strict: bool, precision: torch.dtype | None,
                 pairs: Collection[TapPair] = ()) -> None:
        self.network = network.eval().requires_grad_(False)
        self.checkpoint = checkpoint
        self.strict = strict
        self.precision = precision
        self.pairs = pairs
        self._same_normalization = same_normalization(student_preprocessor,
                                                      network.data_preprocessor)
        self.is_loaded = False
        self._memory_format: torch.memory_format | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def load(self) -> None:
        """Load the weights.

        Raises:
            ConfigError: If the checkpoint is missing, damaged or of another model.
        """
        if self.checkpoint is not None:
            load_teacher_checkpoint(self.network, self.checkpoint, self.strict)
        self.is_loaded = True

    @torch.compiler.disable
    @torch.no_grad()
    def features(self, pairs: Collection[TapPair], inputs: Tensor, data_samples: list | None,
                 student_preprocessor: nn.Module) -> FeatureTaps:
        """Run the network as far as its deepest tap, but for RoI heads.

        Args:
            pairs (Collection[TapPair]): Where it is tapped.
            inputs (Tensor): Images (N, 3, H, W), normalised the student's way.
            data_samples (list, optional): Their data samples.
            student_preprocessor (nn.Module): The student's ``data_preprocessor``.

        Returns:
            FeatureTaps: What its :func:`mmakd.distillers.tap_pair.dense_taps` gave.
        """
        if not self._same_normalization:
            inputs = renormalize(inputs, data_samples, student_preprocessor,
                                 self.network.data_preprocessor)
        if self.pairs and self.is_loaded and self._memory_format is None:
            # Two images: with one the memory of some maps is in order in either format.
            self._speed_up(torch.cat([inputs[:1], inputs[:1].flip(3)]),
                           data_samples and data_samples[:1] * 2)
        if self._memory_format is not None:
            inputs = inputs.contiguous(memory_format=self._memory_format)
        with self._autocast(inputs):
            return self._run(pairs, inputs, data_samples)

    def _speed_up(self, images: Tensor, data_samples: list | None) -> None:
        """Change the network to a faster one that gives the same features to rounding."""

        def run(memory_format: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
            inputs = images.contiguous(memory_format=memory_format)
            # All taps, so that it does not matter which tasks are active at first.
            features = self._run(self.pairs, inputs, data_samples).features
            return [feature for maps in features.values() for feature in maps]

        with self._autocast(images):
            one = images.new_ones(1, 1)
            is_half = torch.mm(one, one).dtype.itemsize < 4
        with torch.autocast(images.device.type, enabled=False):
            fuse_conv_bn(self.network, run,
                         [self.network.get_submodule(pair.teacher) for pair in self.pairs])
            # Tensor cores and CPUs convert to this order anyhow, before each convolution.
            self._memory_format = (use_channels_last(self.network, run)
                                   if is_half or images.device.type == 'cpu' else
                                   torch.contiguous_format)
        if self.precision not in (None, torch.float32):
            # Autocast would convert them for each batch.
            for module in self.network.modules():
                if type(module) in (*CONVOLUTIONS, nn.Linear):
                    module.to(self.precision)

    def _run(self, pairs: Collection[TapPair], inputs: Tensor, data_samples: list | None
             ) -> FeatureTaps:
        with FeatureTaps(self.network, dense_taps(self.network, pairs)) as taps:
            forward_to_taps(self.network, taps.features, inputs, data_samples)
        for tap, maps in taps.features.items():
            taps.features[tap] = [feature.contiguous() for feature in maps]
        return taps

    @torch.compiler.disable
    @torch.no_grad()
    def roi_features(self, pairs: Collection[TapPair], dense: FeatureTaps,
                     recorder: RoIRecorder) -> dict[TapPair, FeatureTaps]:
        """Run the RoI head on the RoIs of the student.

        Args:
            pairs (Collection[TapPair]): Where the network is tapped.
            dense (FeatureTaps): What :meth:`features` gave.
            recorder (RoIRecorder): What the student looked at.

        Returns:
            dict[TapPair, FeatureTaps]: What the taps in the RoI head gave.
        """
        with self._autocast(next(self.network.parameters())):
            return run_roi_heads(self.network, pairs, dense, recorder)

    def _autocast(self, like: Tensor) -> AbstractContextManager:
        if self.precision is None:
            return nullcontext()
        if self.precision == torch.float32:
            return torch.autocast(like.device.type, enabled=False)
        return torch.autocast(like.device.type, self.precision)
