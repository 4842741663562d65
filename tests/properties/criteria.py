"""The criteria as the properties need them, and the maps that are drawn for them."""
from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from mmakd.utils.build import build

FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.skipif(
    torch.__version__ < '2.3', reason='torch before 2.3 has hardly any float16 on the CPU'))
KINDS: dict[str, dict] = {
    'ChannelWiseDivergence': dict(tau=2.0),
    'FeatureMSELoss': {},
    'PKDLoss': {},
    'DISTLoss': dict(tau=2.0),
    'KLDivergence': dict(tau=2.0),
    'EntropyWeightedKDLoss': dict(tau=2.0, gamma=-0.5),
    'DistributionCorrelationLoss': dict(source='avatars'),
    # Without a mask nothing is random.
    'MGDLoss': dict(alpha_mgd=1e-2, lambda_mgd=0.0),
    'MasKDLoss': dict(num_tokens=3, student_masks_begin=None),
    'FGDLoss': dict(alpha_fgd=1e-2, beta_fgd=1e-2, lambda_fgd=1e-2)}
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
SEEDS = st.integers(0, 10**6)


def make_criterion(kind: str, channels: int, **options: object) -> nn.Module:
    torch.manual_seed(0)
    criterion = build(dict(type=kind, **{**KINDS[kind], **options}), offer=dict(channels=channels))
    for parameter in criterion.parameters():
        # What is zero at the start takes part too.
        nn.init.normal_(parameter, std=0.3)
    if kind == 'FGDLoss':
        criterion.context_teacher.load_state_dict(criterion.context_student.state_dict())
    return criterion


def make_map(shape: tuple[int, ...], seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def samples(number: int) -> list[BaseDataElement]:
    """A box of its own, and labels, on each image of 64 x 64."""
    elements = []
    for i in range(number):
        element = BaseDataElement(metainfo=dict(batch_input_shape=(64, 64)))
        element.gt_instances = InstanceData(bboxes=torch.tensor([[0., 8. * i, 32., 40.]]))
        element.gt_sem_seg = PixelData(data=torch.full((1, 64, 64), i))
        elements.append(element)
    return elements


def bound(kind: str, loss: nn.Module, boxes: list[BaseDataElement]) -> Callable[..., Tensor]:
    """The loss as a function of two maps."""
    if kind == 'FGDLoss':
        return lambda student, teacher: loss(student, teacher, data_samples=boxes)
    return loss
