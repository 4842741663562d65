"""Every config builds at real size, without the network, and trains a step."""
import gc
import re
from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope

from benchmark.variants import make_batch, prepare
from mmakd.utils.references import find_checkpoint, find_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')
                 if '_base_' not in path.parts)
REAL = [path for path in CONFIGS if '/toy/' not in path]
DISTILLED = [path for path in REAL if 'maskd-tokens' not in path]
ABLATIONS = [path for path in DISTILLED if '/ablation/' in path]
AVATARS = [path for path in DISTILLED if '/akd-' in path and path not in ABLATIONS]
# Their models and data are those of an `akd-` config, and small models train with their losses.
COVERED = [path for path in DISTILLED if path in ABLATIONS or '/cwd-norm_' in path
           or Path(path).with_name(f'akd-{Path(path).name}').as_posix() in REAL]
NORMALISED = [path for path in CONFIGS if '/cwd-norm_' in path]
SIZE = (128, 128)
CRITERIA = dict(cwd='ChannelWiseDivergence', mgd='MGDLoss', maskd='MasKDLoss', fgd='FGDLoss',
                pkd='PKDLoss')


def batch(cfg: Config) -> dict:
    """Two images with what the network learns from."""
    if cfg.default_scope == 'mmdet' and 'segm' in cfg.val_evaluator.metric:
        return demo_mm_inputs(2, (3, *SIZE), num_items=[4, 4], num_classes=2, with_mask=True)
    return make_batch(cfg.default_scope, SIZE, 2)


@pytest.mark.parametrize('path', [
    pytest.param(path, marks=[pytest.mark.slow] * (path in COVERED)) for path in CONFIGS])
def test_one_step(path):
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    teacher = cfg.model.get('teacher', 'ema')
    if isinstance(teacher, dict) and 'type' not in teacher:
        for named in teacher.values():
            named.update({} if named.cfg == 'ema' else dict(ckpt=None))
    elif teacher != 'ema':
        cfg.model.teacher_ckpt = None
    torch.manual_seed(0)
    model = prepare(MODELS.build(cfg.model), SIZE, 'cpu')
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    data = model.data_preprocessor(batch(cfg), True)
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    optimizer.backward(loss)
    assert all(value.isfinite() for value in logged.values())
    parts = getattr(model, 'distiller', {})
    if 'maskd-tokens' in path:
        parts = dict(tokens=model.mask_modules)
        assert {id(p) for group in optimizer.param_groups for p in group['params']} == {
            id(p) for p in model.mask_modules.parameters()}
    for part in parts.values():
        gradients = [p.grad for p in part.parameters() if p.requires_grad]
        assert all(gradient.isfinite().all() for gradient in gradients)
        # Not all: the topmost map has one position here, where CWD has nothing to compare.
        assert not gradients or any(gradient.any() for gradient in gradients)
    if 'distill' in cfg.model:
        assert 'students' in cfg.model or set(parts) == set(cfg.model.distill)
        assert all(logged[f'distill.loss_{task}'] > 0 for task in parts)
    before = [p.clone() for p in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before))
    assert all(p.isfinite().all() for p in model.parameters())
    del model, optimizer, loss, logged, parts, before
    gc.collect()


def words(name: str) -> set[str]:
    """The words of a config's or a checkpoint's name, in one spelling."""
    spelling = dict(mstrain='ms', dconv='dcn')
    # Neither 8xb2 or 8x2, the images a GPU, nor where the normalisation is tells models apart.
    return {spelling.get(word, word) for word in re.split(r'%2B|[-_]', name)
            if not re.fullmatch(r'\dxb?\d+|neck', word)}


@pytest.mark.parametrize('path', REAL)
def test_published_weights_are_those_of_the_teacher(path):
    model = Config.fromfile(ROOT / path).model
    assert 'teacher_ckpt' not in model
    address = find_checkpoint(model.teacher)
    result = r'_bbox_mAP-[\d.]+(?:__segm_mAP-[\d.]+)?'
    match = re.fullmatch(
        rf'https://\S+/([^/]+?)(?:{result})?(?:_\d{{8}}_\d{{6}}|_\d{{8}})?-[0-9a-f]{{8}}\.pth',
        address)
    assert match, address
    assert words(match[1]) == words(Path(model.teacher).stem)


@pytest.mark.parametrize('path', DISTILLED)
def test_name_tells_what_is_in_the_config(path):
    model = Config.fromfile(ROOT / path).model
    method, teacher, student, *_, schedule, dataset = Path(path).stem.split('_')
    assert words(teacher) <= words(Path(model.teacher).stem)
    assert words(student) | words(schedule) | words(dataset) <= words(Path(model.student).stem)
    family = next(part for part in reversed(Path(path).parent.parts) if part != 'ablation')
    assert student.startswith(family.replace('_', '-'))
    if method == 'best':  # tests/docs/test_study_pages.py
        return
    loss = next(iter(model.distill.values())).loss
    assert (loss.type == 'UncertaintyFeatureLoss') == (
        method.startswith('akd-') or method == 'cwd-norm')
    assert loss.get('criterion', loss).type == CRITERIA[method.removeprefix('akd-').split('-')[0]]


@pytest.mark.parametrize('path', AVATARS)
def test_base_method_stands_beside(path):
    akd = Config.fromfile(ROOT / path)
    base = Config.fromfile((ROOT / path).with_name(Path(path).name.removeprefix('akd-')))
    weighted = [name for name, task in akd.model.distill.items()
                if task.loss.type == 'UncertaintyFeatureLoss']
    assert weighted
    for name in weighted:
        task = akd.model.distill[name]
        task.loss = dict(task.loss.criterion, loss_weight=task.loss.loss_weight)
        base.model.distill[name].loss.setdefault('loss_weight', 1.0)
    assert akd.to_dict() == base.to_dict()


@pytest.mark.parametrize('path', NORMALISED)
def test_normalised_control_stands_beside(path):
    control = Config.fromfile(ROOT / path)
    akd = Config.fromfile(ROOT / path.replace('/cwd-norm_', '/akd-cwd_'))
    assert (ROOT / path.replace('/cwd-norm_', '/cwd_')).exists()
    (task,) = akd.model.distill.values()
    # The weight that MMYOLO publishes, also where CWD has another.
    task.loss.update(perturb=False, uncertainty=dict(type='BatchStatistics'), loss_weight=1.0)
    assert control.to_dict() == akd.to_dict()


@pytest.mark.parametrize('folder', ['det/retinanet', 'seg/pspnet'])
def test_ablation_switches(folder):
    switches = {}
    for path in ABLATIONS:
        if f'/{folder}/' in path:
            cfg = Config.fromfile(ROOT / path)
            whole = Config.fromfile(next((ROOT / path).parents[1].glob(
                f'akd-cwd_{Path(path).stem.split("_", 1)[1]}.py')))
            (name, task), = cfg.model.distill.items()
            default = whole.model.distill[name]
            changed = {key: value for key, value in task.loss.items()
                       if default.loss.get(key) != value}
            changed.update({key: task.pop(key) for key in set(task) - set(default)})
            task.loss = default.loss
            assert cfg.model == whole.model
            switches[Path(path).stem.split('_')[0]] = changed
    weight = switches.pop('pkd')
    assert weight.pop('loss_weight', 5.0) > 0 and weight == dict(type='PKDLoss')
    to_zero = dict(type='DropoutPerturbation', drop_rate=0.1, fill='zero')
    upstream = {
        'akd-cwd-upstream': dict(
            perturb_at='neck', uncertainty=dict(type='AvatarVariance', estimator='sampled')),
    }
    if folder == 'seg/pspnet':
        channels = dict(
            perturb_at='decode_head.conv_seg', num_avatars=4,
            perturbation=dict(type='ChannelDropoutPerturbation', drop_rate=0.1))
        upstream = {
            'akd-cwd-upstream': channels,
            'akd-cwd-upstream-mean': dict(channels, target='mean'),
        }
    assert switches == {
        **upstream,
        'akd-cwd-both': {},
        'akd-cwd-sigma': dict(perturb=False),
        'akd-cwd-avatars': dict(uncertainty=None),
        'akd-cwd-neither': dict(perturb=False, uncertainty=None),
        'akd-cwd-letter': dict(
            perturbation=to_zero, uncertainty=dict(type='AvatarVariance', rescale=None)),
        'akd-cwd-unit': dict(
            perturbation=to_zero, uncertainty=dict(type='AvatarVariance', rescale='unit')),
        'akd-cwd-released': dict(
            perturbation=to_zero, uncertainty=dict(type='BatchStatistics')),
    }


def plain(value: object) -> object:
    """A setting without what has no effect, so that two ways to write it are equal."""
    idle = dict(begin=0, by_epoch=True, val_interval=1, format_only=False, drop_last=False)
    if isinstance(value, dict):
        if value.get('type') == 'MultiStepLR':
            # The milestones say when.
            value = {key: part for key, part in value.items() if key != 'end'}
        return {key: plain(part) for key, part in value.items()
                if part is not None and (key not in idle or part != idle[key])}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('path', DISTILLED)
def test_student_is_trained_as_in_its_own_config(path):
    cfg = Config.fromfile(ROOT / path)
    stock = Config.fromfile(find_config(cfg.model.student))
    method = Path(path).name.split('_')[0].removeprefix('akd-')
    # What the authors of the methods change.
    if method == 'maskd':
        stock.optim_wrapper.optimizer.lr = 0.02
        stock.param_scheduler[0].end = 1000
    if method in ('maskd', 'fgd', 'mgd') and 'backbone' not in path:
        stock.optim_wrapper.clip_grad = dict(max_norm=35, norm_type=2)
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader',
                'val_dataloader', 'val_evaluator'):
        assert plain(cfg[key]) == plain(stock[key]), key
    # mmdet's RTMDet has 16 there, but a rate for its 8 x 32 images.
    images = 256 if 'rtmdet' in path else stock.get('auto_scale_lr', dict(base_batch_size=8))[
        'base_batch_size']
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=images)


DATA_SETS = sorted(path.stem for path in (ROOT / 'configs/_base_/datasets').glob('c*.py'))


@pytest.mark.parametrize('name', DATA_SETS)
def test_data_pipelines(name, workspace):
    """They run, on drawn images in the place of COCO and Cityscapes."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')
    init_default_scope(cfg.default_scope)
    task = 'segmentation' if cfg.default_scope == 'mmseg' else 'detection'
    shapes = Config.fromfile(ROOT / f'configs/_base_/datasets/shapes_{task}.py')
    for loader in ('train_dataloader', 'val_dataloader'):
        drawn = dict(shapes[loader].dataset, pipeline=cfg[loader].dataset.pipeline)
        image, sample = DATASETS.build(drawn)[0].values()
        assert max(image.shape) >= 512
        if task == 'detection':
            assert len(sample.gt_instances)
            assert ('masks' in sample.gt_instances) == (name == 'coco_instance')
        else:
            # Validation compares at the size of the file.
            assert sample.gt_sem_seg.shape == (
                image.shape[1:] if loader == 'train_dataloader' else (64, 64))
