"""What is done with a student after training, on the checkpoint of a distillation."""
import inspect
import re
import sys

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import load_checkpoint
from mmseg.apis import MMSegInferencer

from ..conftest import ROOT, TOY

LAST = {'det': 'epoch_1.pth', 'seg': 'iter_4.pth'}
METRIC = {'det': 'bbox_mAP', 'seg': 'mIoU'}
# So that there are boxes after four steps.
THRESHOLD = {'det': {'test_cfg.score_thr': 0.0}, 'seg': {}}


@pytest.fixture
def distill(toy, train):
    """Train for four steps: ``runner, checkpoint = distill('det')``."""

    def run(task):
        cfg = toy(task, 'akd-cwd', **{
            f'model.student.{key}': value for key, value in THRESHOLD[task].items()})
        return train(cfg), f'{cfg.work_dir}/{LAST[task]}'

    return run


def plain_config(task, workspace):
    """The file of a plain student's config, as its user has it."""
    cfg = Config.fromfile(ROOT / TOY[task].format('student'))
    cfg.merge_from_dict({f'model.{key}': value for key, value in THRESHOLD[task].items()})
    cfg.dump(workspace / 'plain.py')
    return str(workspace / 'plain.py')


def predictions(runner):
    """What the distilled model itself predicts for two images, by path.

    One at a time, as the inferencers do: a batch rounds otherwise, and of boxes whose scores are
    nearly the same another one would come first.
    """
    dataset = runner.val_dataloader.dataset
    runner.model.eval()
    with torch.no_grad():
        samples = [runner.model.val_step(pseudo_collate([dataset[i]]))[0] for i in range(2)]
    return {sample.img_path: sample for sample in samples}


def test_det_inferencer(distill, workspace):
    runner, checkpoint = distill('det')
    inferencer = DetInferencer(plain_config('det', workspace), checkpoint, device='cpu',
                               show_progress=False)
    for path, sample in predictions(runner).items():
        result, = inferencer(path)['predictions']
        expected = sample.pred_instances
        assert len(result['bboxes']) == len(expected) > 0
        np.testing.assert_allclose(result['scores'], expected.scores, rtol=1e-4)
        np.testing.assert_allclose(result['bboxes'], expected.bboxes, rtol=1e-4, atol=1e-3)
        assert result['labels'] == expected.labels.tolist()


def test_seg_inferencer(distill, workspace):
    runner, checkpoint = distill('seg')
    inferencer = MMSegInferencer(plain_config('seg', workspace), checkpoint, device='cpu')
    for path, sample in predictions(runner).items():
        expected = sample.pred_sem_seg.data[0].numpy()
        assert (inferencer(path)['predictions'] == expected).mean() > 0.999


@pytest.mark.parametrize('task', [pytest.param('det', marks=pytest.mark.slow), 'seg'])
def test_test_time_augmentation(task, distill, workspace, script):
    _, checkpoint = distill(task)
    ours = ROOT / TOY[task].format('akd-cwd')
    options = [f'model.student.{key}={value}' for key, value in THRESHOLD[task].items()]
    scores = []
    for config, extra in (ours, ['--cfg-options', 'model.teacher_ckpt=None', *options]), (
            plain_config(task, workspace), []):
        output = script(sys.executable, ROOT / 'tools/test.py', config, checkpoint, '--tta',
                        '--work-dir', 'test', *extra).stdout
        assert 'TTAModel' in output
        scores.append(re.findall(rf'{METRIC[task]}: +([0-9.]+)', output)[-1])
    assert scores[0] == scores[1]


@pytest.mark.skipif('strict' not in inspect.signature(torch.export.export).parameters,
                    reason='torch.export of this torch is always strict, which takes no model of '
                    "MMEngine's")
@pytest.mark.parametrize('task', ['det', 'seg'])
def test_export(task, distill, model):
    runner, checkpoint = distill(task)
    student = model(task, 'student').eval()
    load_checkpoint(student, checkpoint)
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(student, (images, ), strict=False).module()
    with torch.no_grad():
        expected = runner.model.eval()(images, mode='tensor')
        for found, wanted in zip(flat(exported(images)), flat(expected), strict=True):
            torch.testing.assert_close(found, wanted)


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flat(part)]
