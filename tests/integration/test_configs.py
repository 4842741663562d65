"""Every config builds at real size, without the network, and trains a step."""
from pathlib import Path

import pytest
import torch
from benchmark_speed import make_batch, prepare
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmakd.references import find_checkpoint, is_reference

ROOT = Path(__file__).parents[2]
SIZE = (128, 128)
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')
                 if '_base_' not in path.parts)


@pytest.mark.parametrize('path', CONFIGS)
def test_one_step(path):
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    if cfg.model.type == 'AvatarDistiller':
        cfg.model.teacher_ckpt = None
    torch.manual_seed(0)
    model = prepare(MODELS.build(cfg.model), SIZE, 'cpu')
    data = model.data_preprocessor(make_batch(cfg.default_scope, SIZE, 2), True)
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert all(value.isfinite() for value in logged.values())
    ours = [parameter.grad for name, parameter in model.named_parameters()
            if name.startswith('distiller.')]
    assert all(gradient.isfinite().all() for gradient in ours)
    # Not all: the topmost map has one position here, where CWD has nothing to compare.
    assert not ours or any(gradient.any() for gradient in ours)


@pytest.mark.parametrize('path', CONFIGS)
def test_published_teacher_has_an_address_with_a_hash(path):
    model = Config.fromfile(ROOT / path).model
    if not is_reference(model.get('teacher')):
        assert model.type != 'AvatarDistiller' or model.teacher_ckpt.startswith('work_dirs/')
        return
    assert model.get('teacher_ckpt', 'auto') == 'auto'
    address = find_checkpoint(model.teacher)
    assert address.startswith('https://')
    int(address.rsplit('-', 1)[1].removesuffix('.pth'), 16)
