"""The benchmark of training steps: all variants do the same work; its files say what it saw."""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import nn

from benchmark.growth import fit
from benchmark.measure import checkpoint_size, distillation_loss, measure_memory
from benchmark.report import check_report, compute_ratio, target_table, update_report
from benchmark.variants import MMRAZOR, Variants, make_batch, read_config
from mmakd.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/benchmark_speed.py'
DET = ROOT / 'configs/det/toy/akd-cwd_retinanet_shapes.py'
SEG = ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py'
SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-6, momentum=0.9))
# Of CWD on the logits of fresh models: terms of about 4 add up to 0.003.
ROUNDING = 1e-6
PAGE = 'Before.\n<!-- results: begin -->\nold\n<!-- results: end -->\nBehind.\n'


@pytest.mark.parametrize(('config', 'algorithms'), [(DET, MMRAZOR), (SEG, MMRAZOR[1:])])
def test_all_do_the_same(config, algorithms):
    cfg = read_config(config)
    torch.manual_seed(0)
    batch = make_batch(cfg.default_scope, (64, 64), 2)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        variants = Variants(cfg, (64, 64), 'cpu')
        expected = distillation_loss(variants.base(), batch)
        assert expected > 0
        assert distillation_loss(variants.plain(), batch) == 0
        # With other weights it is another.
        other = Variants(cfg, (64, 64), 'cpu').base()
        assert distillation_loss(other, batch) != pytest.approx(expected, rel=1e-2)
        for name in MMRAZOR:
            if name not in algorithms:
                assert 'runs no head' in variants.why_not_mmrazor(name)
                continue
            assert variants.why_not_mmrazor(name) is None
            theirs = variants.mmrazor(name)
            assert type(theirs).__name__ == name
            assert distillation_loss(theirs, batch) == pytest.approx(
                expected, rel=1e-5, abs=ROUNDING)
            # Theirs keeps the teacher.
            ours = checkpoint_size(variants.base(), SGD, batch)
            weights = sum(value.nbytes for value in variants.teacher().state_dict().values())
            assert checkpoint_size(theirs, SGD, batch) > ours + weights


def test_adapters_of_ones_own():
    cfg = read_config(DET)
    cfg.model.distill.fpn.adapter = dict(type='ConvAdapter', kernel_size=3)
    torch.manual_seed(0)
    batch = make_batch('mmdet', (64, 64), 2)
    with DefaultScope.overwrite_default_scope('mmdet'):
        variants = Variants(cfg, (64, 64), 'cpu')
        expected, found = (distillation_loss(model, batch) for model in (
            variants.base(), variants.mmrazor('FpnTeacherDistill')))
    assert found == pytest.approx(expected, rel=1e-5)
    cfg.model.distill.fpn.adapter = dict(type='Conv2d', kernel_size=1)
    assert variants.why_not_mmrazor('FpnTeacherDistill').startswith('it has no resize')


def test_avatars_and_levels():
    cfg = read_config(DET)
    with DefaultScope.overwrite_default_scope('mmdet'):
        variants = Variants(cfg, (64, 64), 'cpu')
        assert [loss.num_avatars for loss in variants.akd(4).distiller.fpn.losses] == [4, 4, 4]
        assert len(variants.akd(levels=2).distiller.fpn.losses) == 2
        # 64 channels at strides 8, 16 and 32 (the toy's), two images.
        assert variants.tapped_elements(2) == [2 * 64 * side**2 for side in (8, 4, 2)]


def test_other_criteria_are_not_compared_with_mmrazor():
    cfg = read_config(DET)
    cfg.model.distill.fpn.loss.criterion = dict(type='FeatureMSELoss')
    with DefaultScope.overwrite_default_scope('mmdet'):
        variants = Variants(cfg, (64, 64), 'cpu')
    assert variants.why_not_mmrazor('SingleTeacherDistill').startswith('FeatureMSELoss')


class Wide(BaseModel):
    """A million weights."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1000, 1000, bias=False)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.linear(inputs[0]).sum())


def test_peak_memory_is_weights_gradients_and_momentum():
    batch = dict(inputs=[torch.zeros(1, 1000)], data_samples=None)
    # The third step's gradients stand beside weights and momentum.
    peak = measure_memory(Wide, SGD, batch, 'cpu')
    assert 12e6 <= peak < 12.2e6
    plain = dict(SGD, optimizer=dict(type='SGD', lr=1e-6))
    assert 8e6 <= measure_memory(Wide, plain, batch, 'cpu') < 8.2e6


def test_line_of_the_law():
    np.testing.assert_allclose(fit([1, 2, 4], [3, 5, 9]), [3, 5, 9])
    np.testing.assert_allclose(fit([0, 1, 2], [0, 3, 0]), [1, 1, 1])


def make_result(device, **variants):
    return dict(device=device, config='akd-cwd_retinanet-r101_retinanet-r50', variants={
        name.replace('_', ' '): dict(seconds=seconds, peak_bytes=None, checkpoint_bytes=None)
        for name, seconds in variants.items()})


def test_ratios_are_taken_round_by_round():
    result = make_result('cpu', plain_student=[1, 4], teacher_forward=[1, 1], theirs=[4, 10])
    np.testing.assert_array_equal(compute_ratio(result, 'theirs', 'floor'), [2, 2])
    assert np.isnan(compute_ratio(result, 'theirs', 'unknown')).all()


def test_targets_leave_what_was_not_measured_empty():
    result = make_result('cpu', plain_student=[2], teacher_forward=[1],
                         **{'ours, base criterion': [6], 'ours, base criterion, float16 teacher':
                            [3]})
    heading, *rows = target_table([result])
    assert heading[1:3] == ['CPU: retinanet-r50', 'GPU: retinanet-r50']
    cells = {row[0]: row[1:3] for row in rows}
    assert cells['base criterion / floor'] == ['1.000', '']  # that of the faster teacher
    assert cells['AKD K = 1 / base criterion'] == ['n/a', '']


@pytest.mark.parametrize('page', [None, 'nothing', '<!-- results: begin -->'])
def test_report_is_checked_first(page, script, workspace):
    if page is not None:
        (workspace / 'page.md').write_text(page)
    done = script(sys.executable, TOOL, DET, '--report', 'page.md', check=False)
    assert done.returncode == 1
    assert '--report=page.md: must be a Markdown file' in done.stdout
    assert 'Traceback' not in done.stdout
    with pytest.raises(ConfigError):
        check_report(workspace / 'page.md')


@pytest.mark.parametrize(('config', 'message'), [
    ('nowhere.py', "config='nowhere.py': no such file"),
    (ROOT / 'configs/det/toy/student_retinanet_shapes.py', "model.type='RetinaNet': name a"),
    (ROOT / 'configs/det/toy/cwd_retinanet_shapes.py', 'model.distill.fpn.loss.type=')])
def test_wrong_configs(config, message):
    with pytest.raises(ConfigError) as raised:
        read_config(config)
    assert message in str(raised.value)


@pytest.mark.slow
def test_command(script, workspace):
    (workspace / 'page.md').write_text(PAGE)
    done = script(sys.executable, TOOL, SEG, '--size', 64, 64, '--iters', 2, '--growth',
                  '--out', 'out', '--report', 'page.md')
    name = 'cpu_akd-cwd_pspnet_shapes'
    result = json.loads((workspace / f'out/{name}.json').read_text())
    assert {*result['variants']} == {
        'plain student', 'teacher forward', 'ours, base criterion',
        *(f'ours, AKD, K = {k}' for k in (1, 2, 4, 8)),
        *(f'ours, AKD, K = {k}, upstream' for k in (1, 4)), 'MMRazor SingleTeacherDistill'}
    for measured in result['variants'].values():
        assert len(measured['seconds']) == 2 and min(measured['seconds']) > 0
    assert [*result['left_out']] == ['FpnTeacherDistill']
    assert [axis['axis'] for axis in result['growth']] == ['Avatars', 'image size',
                                                           'images a step']
    peaks = result['growth'][-1]['peak_bytes']
    assert peaks[0] < peaks[-1]
    assert (workspace / f'out/{name}.png').read_bytes()[1:4] == b'PNG'
    assert 'K = 16' in done.stdout

    page = (workspace / 'page.md').read_text()
    assert page.startswith('Before.\n') and page.endswith('\nBehind.\n') and 'old' not in page
    assert '| ours, AKD, K = 8 |' in page and f'](out/{name}.png)' in page
    update_report(workspace / 'page.md', workspace / 'out')
    assert (workspace / 'page.md').read_text() == page


def test_tables_of_the_docs_are_those_of_their_json(tmp_path):
    shutil.copytree(ROOT / 'docs/benchmark', tmp_path / 'benchmark')
    page = Path(shutil.copy(ROOT / 'docs/benchmark.md', tmp_path))
    update_report(page, tmp_path / 'benchmark')
    assert page.read_text() == (ROOT / 'docs/benchmark.md').read_text()
