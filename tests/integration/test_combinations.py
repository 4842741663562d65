"""Every pair of features meets in a short training.

The rows of a covering array: each has one value of every feature, and every two values of
different features are together in at least one of them.
"""
import importlib.util
import itertools
import json
import math
import shutil
from collections import namedtuple
from hashlib import sha256
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from allpairspy import AllPairs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from .file_server import FileServer
from .forked_scripts import run_script, start_server
from .small_models import small_model
from .states import same

ROOT = Path(__file__).parents[2]
# 'no' stands for all that is left out.
FEATURES = dict(
    model=['det', 'roi', 'seg'],
    precision=['float32', 'bfloat16'],
    teacher=['path', 'http', 'auto'],
    processes=['1', '2'],
    script=['ours', 'stock'],
    ema=['no', 'ema'],
    accumulation=['no', 'accumulation'],
    compile=['no', 'compile'],
    resumed=['no', 'resumed'],
    load_from=['no', 'load_from'],
    workers=['0', '2'],
    criterion=['cwd', 'mgd'],
    num_avatars=['1', '3'],
    place=['tap', 'upstream'],
    schedule=['no', 'schedule'],
    balance=['no', 'balance'],
    score=['no', 'score'])
NAMES = dict(processes='{}p', workers='{}w', num_avatars='k{}')  # in the names of tests


Row = namedtuple('Row', FEATURES)
# mmcv's RoIAlign has no kernel for it; test_refused() shows what is said.
REFUSED = dict(model='roi', precision='bfloat16')
# What replaces values that cost time, where that loses no pair.
CHEAPER = dict(compile='no', processes='1', resumed='no')


def pairs(rows):
    return {pair for row in rows for pair in itertools.combinations(row._asdict().items(), 2)}


def make_rows():
    # One column, so that they do not meet: AllPairs with a filter loses pairs that pass it.
    together = [values for values in itertools.product(*map(FEATURES.get, REFUSED))
                if values != tuple(REFUSED.values())]
    table = AllPairs([together, *(values for name, values in FEATURES.items()
                                  if name not in REFUSED)])
    rows = [Row(*first, *others) for first, *others in table]
    while True:
        found = [[*rows[:number], row._replace(**{feature: value}), *rows[number + 1:]]
                 for number, row in enumerate(rows) for feature, value in CHEAPER.items()]
        cheaper = min((others for others in found if pairs(others) == pairs(rows)), key=cost)
        if cost(cheaper) == cost(rows):
            return rows
        rows = cheaper


def cost(rows):
    """Seconds of a processor, about."""
    return sum(int(row.processes) * (4 + 25 * (row.compile == 'compile'))
               * (1 + (row.resumed == 'resumed')) for row in rows)


ROWS = make_rows()


def row_id(row):
    return '-'.join(NAMES.get(name, '{}').format(value) for name, value in row._asdict().items()
                    if value != 'no')


def test_every_pair_meets():
    for first, second in itertools.combinations(FEATURES, 2):
        for values in itertools.product(FEATURES[first], FEATURES[second]):
            pair = dict(zip((first, second), values))
            meetings = [row for row in ROWS if pair.items() <= row._asdict().items()]
            assert bool(meetings) == (pair != REFUSED), pair
    assert len(ROWS) <= 20 and len({row_id(row) for row in ROWS}) == len(ROWS)


# By kind of model the package that ships it, what is compared, and the score.
PACKAGE = dict(det='mmdet', roi='mmdet', seg='mmseg')
TAPS = dict(
    det=dict(fpn='neck'),
    roi=dict(masks='roi_head.mask_head.convs.0', boxes='roi_head.bbox_head.fc_cls'),
    seg=dict(logits='decode_head.conv_seg'))
UPSTREAM = dict(fpn='neck', masks='roi_head.mask_head', boxes='roi_head.bbox_head.fc_cls',
                logits='decode_head.conv_seg')
SCORE = dict(det='coco/bbox_mAP', roi='coco/bbox_mAP', seg='mIoU')
CRITERIA = dict(cwd=dict(type='ChannelWiseDivergence'), mgd=dict(type='MGDLoss'))
# Each with two iterations between them.
CHECKPOINTS = dict(det=('epoch_1.pth', 'epoch_2.pth'), roi=('epoch_1.pth', 'epoch_2.pth'),
                   seg=('iter_2.pth', 'iter_4.pth'))
LEARNING_RATE = 1e-3


def network(kind, name):
    """The config of a student or teacher; without a threshold there are boxes to score."""
    if kind == 'roi':
        model = small_model('mask_rcnn')
        model.test_cfg.rcnn.update(score_thr=0., max_per_img=5)
        return model
    file = dict(det='det/toy/{}_retinanet_shapes.py', seg='seg/toy/{}_pspnet_shapes.py')[kind]
    model = Config.fromfile(ROOT / 'configs' / file.format(name)).model
    if kind == 'det':
        model.test_cfg.update(score_thr=0., max_per_img=5)
    return model


def random_weights(kind, name):
    init_default_scope(PACKAGE[kind])
    torch.manual_seed(1)
    model = MODELS.build(network(kind, name))
    model.init_weights()
    return model.state_dict()


def make_package(installed, package):
    """Make an installed package anew of links, so that more configs can be laid into it."""
    (package / '.mim/configs').mkdir(parents=True)
    for source, target in ((installed, package), (installed / '.mim', package / '.mim'),
                           (installed / '.mim/configs', package / '.mim/configs')):
        for part in source.iterdir():
            if part.name not in ('.mim', 'configs'):
                (target / part.name).symlink_to(part)


@pytest.fixture(scope='session')
def shipped(tmp_path_factory):
    """A mmdet and a mmseg that ship a teacher of each kind, and the server of their weights."""
    site, weights = tmp_path_factory.mktemp('site'), tmp_path_factory.mktemp('weights')
    server = FileServer(weights)
    teachers, students, stock = {}, {}, {}
    for package in ('mmdet', 'mmseg'):
        installed = Path(importlib.util.find_spec(package).origin).parent
        make_package(installed, site / package)
        configs = site / package / '.mim/configs/shapes'
        configs.mkdir()
        models = []
        for kind in (kind for kind in PACKAGE if PACKAGE[kind] == package):
            Config(dict(model=network(kind, 'teacher'), default_scope=package)).dump(
                configs / f'{kind}.py')
            torch.save(dict(state_dict=random_weights(kind, 'teacher')), weights / 'teacher.pth')
            digest = sha256((weights / 'teacher.pth').read_bytes()).hexdigest()
            teachers[kind] = (weights / 'teacher.pth').rename(weights / f'{kind}-{digest[:8]}.pth')
            students[kind] = weights / f'{kind}_student.pth'
            torch.save(dict(state_dict=random_weights(kind, 'student')), students[kind])
            models.append(dict(Name=kind, Config=f'configs/shapes/{kind}.py',
                               Weights=f'{server.url}/{teachers[kind].name}'))
            stock[kind] = site / package / '.mim/tools/train.py'
        (configs / 'metafile.yml').write_text(json.dumps(dict(Models=models)))
    start_server(site)
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(site=site, server=server, teachers=teachers, students=students,
                              stock=stock)
        server.shutdown()


def make_config(row, toy, shipped):
    kind, package = row.model, PACKAGE[row.model]
    cfg = toy(dict(mmdet='det', mmseg='seg')[package], 'akd-cwd', **{
        'model.student': dict(network(kind, 'student'), _delete_=True),
        'optim_wrapper.optimizer.lr': LEARNING_RATE,
        # A shorter step to compile.
        'optim_wrapper.optimizer.foreach': True,
        # Two iterations are an epoch of the 16 images.
        'train_dataloader.batch_size': 8 // int(row.processes),
        'default_hooks.checkpoint.max_keep_ckpts': -1,
        'default_hooks.exact_resume': dict(type='ExactResumeHook'),
        'default_hooks.witness': dict(type='Witness'),
        'custom_imports.imports': ['mmakd', 'tests.integration.witness']})
    if package == 'mmdet':
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
    else:
        cfg.train_cfg.update(max_iters=4, val_interval=4)
        cfg.default_hooks.checkpoint.interval = 2
    if kind == 'roi':
        cfg.train_dataloader.dataset.pipeline[1].with_mask = True

    file = shipped.teachers[kind]
    cfg.model.teacher, cfg.model.teacher_ckpt = dict(
        path=(str(shipped.site / package / f'.mim/configs/shapes/{kind}.py'), str(file)),
        http=(str(shipped.site / package / f'.mim/configs/shapes/{kind}.py'),
              f'{shipped.server.url}/{file.name}'),
        auto=(f'{package}::shapes/{kind}.py', 'auto'))[row.teacher]
    cfg.model.distill = {name: dict(tap=tap, adapter=dict(type='ConvAdapter'), loss=dict(
        type='UncertaintyFeatureLoss', num_avatars=int(row.num_avatars),
        # A divergence over the single position of a vector is none.
        criterion=dict(type='KLDivergence') if name == 'boxes' else CRITERIA[row.criterion]))
        for name, tap in TAPS[kind].items()}
    if row.place == 'upstream':
        for name, task in cfg.model.distill.items():
            task.perturb_at = UPSTREAM[name]
            task.loss.uncertainty = dict(type='AvatarVariance', estimator='sampled')

    if row.precision == 'bfloat16' and row.script == 'stock':
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
    if row.ema == 'ema':
        cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    if row.accumulation == 'accumulation':
        cfg.optim_wrapper.accumulative_counts = 2
    if row.compile == 'compile':
        cfg.compile = dict(backend='eager')
    if row.load_from == 'load_from':
        cfg.load_from = str(shipped.students[kind])
    if row.workers == '2':
        cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    if row.schedule == 'schedule':
        cfg.default_hooks.distillation_schedule = dict(type='DistillationScheduleHook', begin=1)
    if row.balance == 'balance':
        cfg.default_hooks.distillation_balance = dict(
            type='DistillationBalanceHook', share=0.5, interval=1)
    if row.score == 'score':
        cfg.default_hooks.teacher_eval = dict(type='TeacherEvalHook')
    if row.script == 'stock' and row.processes == '2':
        # MMEngine itself would ask for CUDA devices.
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None,
                                     broadcast_buffers=False)
    return cfg


class Training:
    """What is left of a training.

    Attributes:
        steps (dict[int, dict]): What was logged of each iteration.
        scores (dict): What was logged of the validation.
        facts (list[list[dict]]): By rank and iteration what the witness saw.
        state (dict): The last checkpoint.
    """

    def __init__(self, folder, last):
        log, = folder.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        self.steps = {line['step']: line for line in lines if 'loss' in line}
        self.scores, = (line for line in lines if 'loss' not in line)
        self.facts = [[json.loads(line) for line in file.read_text().splitlines()]
                      for file in sorted(folder.glob('rank*.jsonl'))]
        self.state = torch.load(folder / last, weights_only=False)


def check_log(row, training, first):
    """What an iteration logs, up to the fourth."""
    assert list(training.steps) == list(range(first, 5))
    for step, line in training.steps.items():
        for task in TAPS[row.model]:
            loss = line[f'distill.loss_{task}']
            assert math.isfinite(loss)
            is_off = row.schedule == 'schedule' and step == 1
            assert loss == 0 if is_off else loss > 0, (step, task)
            if row.schedule == 'schedule':
                assert line[f'distill_weight/{task}'] == (not is_off)
            assert any(key.startswith(f'sigma/{task}') for key in line) != is_off
            assert ('distill_balance/share' in line) == (row.balance == 'balance' and not is_off)
    metric = SCORE[row.model]
    assert metric in training.scores
    assert (f'teacher/{metric}' in training.scores) == (row.score == 'score')


def check_facts(row, training):
    """How all ranks trained."""
    assert len(training.facts) == int(row.processes)
    for facts in training.facts:
        assert len(facts) == len(training.steps)
        for fact in facts:
            assert fact['world_size'] == int(row.processes)
            assert fact['workers'] == int(row.workers)
            assert fact['is_compiled'] == (row.compile == 'compile')
            assert fact['optim_wrapper'] == ('CPUAmpOptimWrapper' if row.precision == 'bfloat16'
                                             else 'OptimWrapper')
    digests = [[fact['digest'] for fact in facts] for facts in training.facts]
    assert digests[0] == digests[-1]


def check_checkpoint(row, training, shipped):
    """The plain student and what is ours, averaged or not; where it came from."""
    plain = torch.load(shipped.students[row.model])['state_dict']
    states = [training.state['state_dict']]
    assert ('ema_state_dict' in training.state) == (row.ema == 'ema')
    if row.ema == 'ema':
        states.append({key.removeprefix('module.'): value for key, value
                       in training.state['ema_state_dict'].items() if key != 'steps'})
    for state in states:
        ours = {key for key in state if key.startswith('distiller.')}
        assert set(state) - ours == set(plain)
        assert any('adapters' in key for key in ours)
        assert any('generation' in key for key in ours) == (row.criterion == 'mgd')
        assert all(value.isfinite().all() for value in state.values())
        assert all(value.dtype == torch.float32 for value in state.values()
                   if value.is_floating_point())
    assert len(states) == 1 or same(*states)

    updates = [state['step'] for state in training.state['optimizer']['state'].values()]
    assert max(updates) == (2 if row.accumulation == 'accumulation' else 4)
    moved = (states[0]['backbone.layer3.0.conv1.weight']
             - plain['backbone.layer3.0.conv1.weight']).abs().max()
    # AdamW moves a weight by the learning rate at most.
    assert moved > 0 and (moved <= 5 * LEARNING_RATE) == (row.load_from == 'load_from')


@pytest.fixture
def launch(toy, shipped, workspace, free_port):
    """Run a row's training: ``launch(row, 'work_dir', '--option')``."""

    def run(row, name, *options, check=True):
        config = workspace / f'{name}.py'
        make_config(row, toy, shipped).dump(config)
        is_ours, is_distributed = row.script == 'ours', row.processes == '2'
        if is_ours and row.precision == 'bfloat16':
            options = [*options, '--amp']
        if is_distributed:
            options = [*options, '--launcher', 'pytorch']
        return run_script(
            ROOT / 'tools/train.py' if is_ours else shipped.stock[row.model], config,
            '--work-dir', workspace / name, *options, processes=int(row.processes),
            # Which MMEngine does not start.
            gloo=is_distributed and not is_ours, port=free_port, check=check,
            output=workspace / f'{name}.txt', TORCH_HOME=workspace / 'cache')

    return run


# Compiling takes a minute or more of a processor, two processes half a minute.
@pytest.mark.parametrize('row', [
    pytest.param(row, id=row_id(row), marks=[pytest.mark.slow] * (
        row.compile == 'compile' or row.processes == '2'))
    for row in ROWS])
def test_training(row, launch, shipped, workspace):
    shipped.server.asked.clear()
    half, last = CHECKPOINTS[row.model]
    output = launch(row, 'whole').stdout
    whole = Training(workspace / 'whole', last)
    check_log(row, whole, first=1)
    check_facts(row, whole)
    check_checkpoint(row, whole, shipped)
    assert 'Teacher loaded from' in output
    assert ('Evaluating the teacher' in output) == (row.score == 'score')
    if row.resumed == 'resumed':
        folder = workspace / 'resumed'
        folder.mkdir()
        shutil.copy(workspace / 'whole' / half, folder)
        (folder / 'last_checkpoint').write_text(str(folder / half))
        # With a load_from, mmseg's own script would begin anew from there.
        again = row._replace(load_from='no')
        assert 'Evaluating the teacher' not in launch(again, 'resumed', '--resume').stdout
        resumed = Training(folder, last)
        check_log(row, resumed, first=3)
        check_facts(row, resumed)
        for part in ('state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict'):
            assert not same(whole.state.get(part), resumed.state.get(part)), part
    # Each file is fetched once, whatever the number of processes and trainings.
    assert shipped.server.asked == (
        {} if row.teacher == 'path' else {shipped.teachers[row.model].name: 1})


@pytest.mark.parametrize('script', FEATURES['script'])
def test_refused(script, launch, workspace):
    row = ROWS[0]._replace(script=script, **REFUSED)
    done = launch(row, 'refused', check=False)
    assert done.returncode != 0
    assert 'optim_wrapper: the student cannot be trained in bfloat16' in done.stdout
    assert 'roi_head.bbox_roi_extractor' in done.stdout
    # Before the first iteration.
    assert not list((workspace / 'refused').rglob('scalars.json'))
