"""The frozen teacher."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from .checkpoint import load_teacher_checkpoint
from .renormalize import renormalize, same_normalization
from .taps import FeatureTaps, forward_to_taps


class Teacher:
    """A frozen network that gives features and is no part of the model it teaches.

    It is deliberately no ``nn.Module``: absent from parameters, state dict, optimizer and DDP
    buckets, and shared, not copied, by ``deepcopy`` (as in EMAHook).

    Args:
        network (BaseModel): The detector or segmentor.
        taps (Sequence[str]): Where features are read.
        student_preprocessor (nn.Module): The student's ``data_preprocessor``, whose images the
            teacher receives.
        checkpoint (str, optional): Path or URL of its weights; None keeps the random ones.
        strict (bool): Whether the checkpoint must match key by key.
        precision (torch.dtype, optional): Autocast type of its forward pass, float32 for none;
            None follows the student's step.
    """

    def __init__(self, network: BaseModel, taps: Sequence[str], student_preprocessor: nn.Module,
                 checkpoint: str | None, strict: bool, precision: torch.dtype | None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.taps = taps
        self.checkpoint = checkpoint
        self.strict = strict
        self.precision = precision
        self._same_normalization = same_normalization(student_preprocessor,
                                                      network.data_preprocessor)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def load(self) -> None:
        """Load the weights.

        Raises:
            ConfigError: If the checkpoint is missing, damaged or of another model.
        """
        if self.checkpoint is not None:
            load_teacher_checkpoint(self.network, self.checkpoint, self.strict)

    @torch.no_grad()
    def features(self, inputs: Tensor, data_samples: list | None,
                 student_preprocessor: nn.Module) -> dict[str, list[Tensor]]:
        """Run the network as far as its deepest tap.

        Args:
            inputs (Tensor): Images (N, 3, H, W), normalised the student's way.
            data_samples (list, optional): Their data samples.
            student_preprocessor (nn.Module): The student's ``data_preprocessor``.

        Returns:
            dict[str, list[Tensor]]: The maps of each tap, without gradient.
        """
        if not self._same_normalization:
            inputs = renormalize(inputs, data_samples, student_preprocessor,
                                 self.network.data_preprocessor)
        with FeatureTaps(self.network, self.taps) as taps:
            if self.precision is None:
                forward_to_taps(self.network, self.taps, inputs, data_samples)
            else:
                with torch.autocast(inputs.device.type, self.precision,
                                    enabled=self.precision != torch.float32):
                    forward_to_taps(self.network, self.taps, inputs, data_samples)
        return taps.features
