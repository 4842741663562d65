import os
import pickle
import re
import uuid

import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from mmakd.distillers.teacher import load_teacher_checkpoint
from mmakd.utils.checkpoint import TORCH_READS_SAFELY
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model


class ToyModel(BaseModel):
    """A model with parameters, buffers and, if asked for, more layers."""

    def __init__(self, width=4, extra=False):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)
        self.norm = nn.BatchNorm2d(width)
        if extra:
            self.head = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        out = self.norm(self.conv(inputs))
        return dict(loss=out.square().mean(), accuracy=out.mean()) if mode == 'loss' else out


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """What a Runner saves: weights, optimizer, schedulers and the message hub with its history."""
    folder = tmp_path_factory.mktemp('runner')
    runner = Runner(
        ToyModel(), str(folder),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.rand(3, 4, 4)) for _ in range(4)], batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True), num_workers=0,
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='CosineAnnealingLR'),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        experiment_name=f'test_checkpoint_{uuid.uuid4().hex}')
    runner.train()
    return runner.model, folder / 'epoch_2.pth'


def assert_same_state(model, expected):
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(state[name].equal(value) for name, value in expected.items())


def save(path, state_dict):
    torch.save(dict(state_dict=state_dict, meta={}), path)
    return str(path)


def test_checkpoint_of_a_runner_loads(trained):
    model, path = trained
    with pytest.raises(pickle.UnpicklingError):  # it holds more than torch allows by itself
        torch.load(path, weights_only=True)
    teacher = ToyModel()
    statistics = dict(HistoryBuffer._statistics_methods)
    load_teacher_checkpoint(teacher, str(path))
    assert_same_state(teacher, model.state_dict())
    # Loading a buffer of mmengine's changes a table that all buffers share.
    assert HistoryBuffer._statistics_methods == statistics


@pytest.mark.parametrize('wrap', [
    lambda state: state,
    lambda state: dict(state_dict=state),
    lambda state: dict(state_dict={**state, 'distiller.tasks.fpn.weight': torch.ones(2)}),
    lambda state: dict(state_dict={k: v for k, v in state.items()
                                   if not k.endswith('num_batches_tracked')}),
], ids=['bare', 'wrapped', 'distilled_student', 'old_torch'])
@pytest.mark.parametrize('new_format', [True, False], ids=['zip', 'legacy'])
def test_other_checkpoints_load(tmp_path, wrap, new_format):
    state, path = ToyModel().state_dict(), tmp_path / 'teacher.pth'
    torch.save(wrap(state), path, _use_new_zipfile_serialization=new_format)
    teacher = ToyModel()
    load_teacher_checkpoint(teacher, path)
    assert_same_state(teacher, state)


@pytest.mark.parametrize('damage', [
    lambda data: b'',
    lambda data: data[:len(data) // 2],
    lambda data: data[:-1],
    lambda data: data[:100],
    lambda data: b'<html>404: not found</html>',
    lambda data: bytes(range(256)) * 8,
    lambda data: pickle.dumps([1, 2]),
    lambda data: pickle.dumps({}),
], ids=['empty', 'half', 'last_byte', 'first_bytes', 'html', 'noise', 'list', 'no_keys'])
def test_damaged_file_is_named_and_changes_nothing(trained, tmp_path, damage):
    path, teacher = tmp_path / 'teacher.pth', ToyModel()
    path.write_bytes(damage(trained[1].read_bytes()))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_teacher_checkpoint(teacher, str(path))
    assert str(caught.value).startswith(f"model.teacher_ckpt='{path}': ")
    assert len(caught.value.problems) == 1
    assert_same_state(teacher, before)


@pytest.mark.parametrize('length', range(0, 1000, 50))
def test_truncated_legacy_file_is_named(tmp_path, length):
    path = tmp_path / 'teacher.pth'
    torch.save(ToyModel().state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigError, match=r'^model.teacher_ckpt='):
        load_teacher_checkpoint(ToyModel(), str(path))


@pytest.mark.parametrize('make, what', [
    (lambda folder: folder / 'none.pth', 'no such file'), (lambda folder: folder, 'a directory')])
def test_missing_file_is_named(tmp_path, make, what):
    path = make(tmp_path)
    with pytest.raises(ConfigError, match=f"^model.teacher_ckpt='{path}': {what}"):
        load_teacher_checkpoint(ToyModel(), str(path))


@pytest.mark.parametrize('content', [
    dict(state_dict=[1, 2]), dict(epoch=3), [torch.ones(2)], torch.ones(2), dict(state_dict={}),
    dict(state_dict=dict(weight=1.0))])
def test_file_without_a_state_dict_is_named(tmp_path, content):
    path = tmp_path / 'teacher.pth'
    torch.save(content, path)
    with pytest.raises(ConfigError, match='holds no state_dict'):
        load_teacher_checkpoint(ToyModel(), str(path))


def make_misfit():
    """A checkpoint that lacks the head, brings a layer of its own and has a wider conv."""
    state = {**ToyModel(width=5).state_dict(), 'neck.weight': torch.ones(1)}
    return state, ToyModel(width=4, extra=True)


def test_keys_of_another_model_are_listed(tmp_path):
    state, teacher = make_misfit()
    path = save(tmp_path / 'other.pth', state)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_teacher_checkpoint(teacher, path)
    message = str(caught.value)
    assert message.startswith(f"model.teacher_ckpt='{path}': does not fit the teacher (ToyModel)")
    assert '2 keys missing: head.weight, head.bias' in message
    assert '1 keys unexpected: neck.weight' in message
    assert '6 keys of another shape: conv.weight (5, 3, 1, 1) instead of (4, 3, 1, 1)' in message
    assert 'teacher_strict=False' in message
    assert_same_state(teacher, before)


def test_without_strict_what_fits_is_loaded_and_the_rest_is_logged(tmp_path, caplog):
    state, teacher = make_misfit()
    state['head.bias'] = torch.tensor([7.])
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    load_teacher_checkpoint(teacher, save(tmp_path / 'other.pth', state), strict=False)
    logger.removeHandler(caplog.handler)
    warning, = (record for record in caplog.records if record.levelname == 'WARNING')
    assert '1 keys missing: head.weight' in warning.getMessage()
    assert '1 keys unexpected: neck.weight' in warning.getMessage()
    fits = {'head.bias', 'norm.num_batches_tracked'}
    assert_same_state(teacher, {**before, **{name: state[name] for name in fits}})


FCOS = dict(
    cfg='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))


@pytest.mark.parametrize('strict', [True, False])
def test_keys_that_the_model_itself_renames_load(tmp_path, strict):
    """Heads of mmdet take checkpoints of its early versions, whose layers had other names."""
    source, teacher = (MODELS.build(resolve_model(FCOS)) for _ in range(2))
    state = {re.sub(r'conv_(cls|reg|centerness)', r'fcos_\1', name): value
             for name, value in source.state_dict().items()}
    load_teacher_checkpoint(teacher, save(tmp_path / 'old.pth', state), strict)
    assert_same_state(teacher, source.state_dict())


class Harmful:

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


needs_safe_torch = pytest.mark.skipif(
    not TORCH_READS_SAFELY, reason='before 2.6 torch reads files of trusted origin only')


@needs_safe_torch
@pytest.mark.parametrize('place', ['state_dict', 'meta'])
@pytest.mark.parametrize('function', [os.mkdir, eval, exec])
def test_checkpoint_cannot_run_code(tmp_path, function, place):
    marker = tmp_path / 'it_ran'
    argument = str(marker) if function is os.mkdir else f'__import__("os").mkdir({str(marker)!r})'
    content = dict(state_dict=ToyModel().state_dict(), meta={})
    content[place]['x'] = Harmful(function, argument)
    path = tmp_path / 'teacher.pth'
    torch.save(content, path)
    with pytest.raises(ConfigError, match='holds more than weights'):
        load_teacher_checkpoint(ToyModel(), str(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file is harmful indeed
    assert marker.exists()


@needs_safe_torch
def test_getattr_in_a_checkpoint_is_refused(tmp_path):
    content = dict(state_dict=dict(x=Harmful(getattr, torch.ones(2), 'data')))
    path = tmp_path / 'teacher.pth'
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r'holds more than weights \(getattr'):
        load_teacher_checkpoint(ToyModel(), str(path))
