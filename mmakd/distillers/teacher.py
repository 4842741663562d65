"""The frozen teacher."""
from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..utils.amp import autocast_dtype
from ..utils.checkpoint import read_state_dict
from ..utils.errors import ConfigError
from ..utils.state_dict import OWN_KEYS, describe_mismatch, rename_keys
from .mmcv_ops import float32_instead_of_bfloat16, mmcv_layers
from .renormalize import renormalize, same_normalization, teacher_view
from .tap_pair import TapPair, dense_taps, perturbed_modules, run_roi_heads
from .taps import FeatureTaps, forward_to_taps
from .upstream_avatars import UpstreamAvatars, upstream_avatars


class Teacher:
    """A frozen network that provides features and is not part of the model that it teaches.

    It is deliberately not an ``nn.Module``, so it is absent from parameters, state dict, optimizer
    and DDP buckets. A ``deepcopy`` of the model (as in EMAHook) shares the network; only the model
    that was built moves it.

    Args:
        network (BaseModel): The detector or segmentor.
        student_preprocessor (nn.Module): The student's ``data_preprocessor``, whose images the
            teacher receives.
        checkpoint (str, optional): Path or URL of its weights; None for random weights.
        strict (bool): Whether the checkpoint must match key by key. Defaults to True.
        precision (torch.dtype, optional): Autocast type of its forward pass; float32 turns
            autocast off. Defaults to None, that of the student's step. In bfloat16 the layers of
            ``mmcv.ops`` run in float32.
        name (str, optional): Its name in the config. Defaults to None.
        is_average (bool): Whether it is a running average of the student, which
            :class:`mmakd.hooks.EMATeacherHook` updates. Defaults to False.
    """

    def __init__(self, network: BaseModel, student_preprocessor: nn.Module,
                 checkpoint: str | None, strict: bool = True,
                 precision: torch.dtype | None = None, name: str | None = None,
                 is_average: bool = False) -> None:
        self.network = network.eval().requires_grad_(False)
        self.checkpoint = checkpoint
        self.strict = strict
        self.precision = precision
        self.name = name
        self.is_average = is_average
        self.label = 'teacher' if name is None else f'teacher.{name}'
        self._student_preprocessor = student_preprocessor
        self._same_normalization = same_normalization(student_preprocessor,
                                                      network.data_preprocessor)
        self._mmcv_layers = mmcv_layers(network)
        self._follows_model = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        twin = copy.copy(self)
        twin._follows_model = False
        return twin

    def load(self) -> None:
        """Load the weights; all models that share the network then see ``network.is_init``."""
        if self.checkpoint is not None:
            load_teacher_checkpoint(self.network, self.checkpoint, self.strict, self.name)
        self.network.is_init = True

    def copy_student(self, student: BaseModel) -> None:
        """Give an average the current weights of the student."""
        self.network.load_state_dict(student.state_dict())

    def follow(self, *args: Any, **kwargs: Any) -> None:
        """Move or cast the network by ``_apply`` of the model that was built, not of a copy."""
        if self._follows_model:
            self.network._apply(*args, **kwargs)

    @torch.compiler.disable
    @torch.no_grad()
    def run(self, pairs: Collection[TapPair], inputs: Tensor,
            data_samples: list | None) -> FeatureTaps:
        """Run the network up to its deepest tap, without RoI heads.

        Args:
            pairs (Collection[TapPair]): The taps.
            inputs (Tensor): Images (N, 3, H, W), normalised for the student.
            data_samples (list, optional): Their data samples; the images that
                :class:`mmakd.datasets.TwoViews` put there replace the student's.

        Returns:
            FeatureTaps: The features at :func:`mmakd.distillers.tap_pair.dense_taps`.
        """
        inputs = teacher_view(inputs, data_samples, self._student_preprocessor)
        if not self._same_normalization:
            inputs = renormalize(inputs, data_samples, self._student_preprocessor,
                                 self.network.data_preprocessor)
        taps = FeatureTaps(self.network, dense_taps(self.network, pairs), inputs_of=(
            perturbed_modules([pair for pair in pairs if not pair.branches])))
        with taps, self._precision(inputs.device):
            forward_to_taps(self.network, taps.features, inputs, data_samples)
        return taps

    @torch.compiler.disable
    @torch.no_grad()
    def maps(self, pairs: Collection[TapPair], dense: FeatureTaps, student_taps: FeatureTaps
             ) -> dict[TapPair, tuple[list[Tensor], UpstreamAvatars | None]]:
        """Run the RoI head, if it is tapped, on the RoIs of the student, and collect all maps.

        Args:
            pairs (Collection[TapPair]): The taps.
            dense (FeatureTaps): Result of :meth:`run`.
            student_taps (FeatureTaps): The student's, which hold its RoIs.

        Returns:
            dict: The maps of each pair, and the source of its Avatars if they are made upstream.
        """
        device = next(self.network.parameters()).device
        with self._precision(device):
            in_roi_heads = run_roi_heads(self.network, pairs, dense, student_taps)
        precision = partial(self._precision, device, autocast_dtype(device))
        found = {}
        for pair in pairs:
            taps = in_roi_heads.get(pair, dense)
            found[pair] = taps.features[pair.teacher], upstream_avatars(
                self.network, pair, taps, precision)
        return found

    @contextmanager
    def _precision(self, device: torch.device, ambient: torch.dtype | None = None
                   ) -> Iterator[None]:
        """Run the block in the teacher's precision or, without one, in the ``ambient`` one."""
        dtype = self.precision or ambient
        with ExitStack() as contexts:
            if dtype is not None:
                contexts.enter_context(torch.autocast(
                    device.type, None if dtype == torch.float32 else dtype,
                    enabled=dtype != torch.float32))
            contexts.enter_context(float32_instead_of_bfloat16(self._mmcv_layers.values()))
            yield


def teacher_key(teacher: str | None, option: str) -> str:
    """Return the key of an option of a teacher, by its name: of ``'cfg'``, ``'ckpt'`` etc."""
    if teacher is None:
        return 'model.teacher' if option == 'cfg' else f'model.teacher_{option}'
    return f'model.teacher.{teacher}.{option}'


def load_teacher_checkpoint(model: nn.Module, checkpoint: str, strict: bool = True,
                            teacher: str | None = None, key: str | None = None) -> None:
    """Load what :func:`read_teacher_checkpoint`, which has the same arguments, reads."""
    model.load_state_dict(
        read_teacher_checkpoint(model, checkpoint, strict, teacher, key), strict=False)
    print_log(f'Teacher {teacher or ""}'.rstrip() + f' loaded from {checkpoint}', 'current')


def read_teacher_checkpoint(model: nn.Module, checkpoint: str, strict: bool = True,
                            teacher: str | None = None, key: str | None = None
                            ) -> dict[str, Tensor]:
    """Read a checkpoint of a teacher, matched key by key.

    Args:
        model (nn.Module): The teacher.
        checkpoint (str): Path or URL. Keys of a distiller are ignored, so a distilled student can
            be a teacher.
        strict (bool): Whether missing and unexpected keys are an error, not a warning. Defaults
            to True.
        teacher (str, optional): The teacher's name in the config. Defaults to None.
        key (str, optional): The config key that names the file. Defaults to None, the teacher's.

    Returns:
        dict[str, Tensor]: The weights that fit.

    Raises:
        ConfigError: If the file is missing, damaged, not a checkpoint, or of another model.
    """
    key = f'{key or teacher_key(teacher, "ckpt")}={str(checkpoint)!r}'
    state_dict = read_state_dict(str(checkpoint), key)
    for name in [name for name in state_dict if name.startswith(OWN_KEYS)]:
        del state_dict[name]
    rename_keys(model, state_dict)
    problem = describe_mismatch(model, state_dict)
    if problem:
        message = (f'{key}: does not fit the teacher ({type(model).__name__}): {problem}. Name '
                   'the checkpoint of this very config')
        if strict:
            strict_key = teacher_key(teacher, 'strict').removeprefix('model.')
            raise ConfigError(f'{message}, or set {strict_key}=False to load what fits')
        print_log(message, 'current', level=logging.WARNING)
        own = model.state_dict()
        for name in [name for name, value in state_dict.items()
                     if name not in own or own[name].shape != value.shape]:
            del state_dict[name]
    return state_dict
