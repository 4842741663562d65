"""README and the configs named best say what the committed results of the study say."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from trials.arms import ARMS
from trials.cells import Cell, Place
from trials.evidence import Evidence
from trials.results import Results
from trials.tasks import TASKS

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text()
BEST = {'det': ('toy/best_retinanet_shapes.py',
                'retinanet/best_retinanet-r101_retinanet-r50_fpn_2x_coco.py'),
        'seg': ('toy/best_pspnet_shapes.py',
                'pspnet/best_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py')}


def show(task: Config) -> tuple:
    """What decides a task's loss, defaults included."""
    return task.tap, task.get('perturb_at'), repr(MODELS.build(task.loss))


@pytest.mark.parametrize('task', TASKS)
def test_best_configs_are_those_of_the_best_proven_arm(task):
    evidence = Evidence(Results(ROOT / 'docs/study'))
    arm = evidence.stages['shapes', task][1].best()
    setting = evidence.settings[f'shapes/{task}/{ARMS[arm].base}']
    cfg = Cell('shapes', task, arm, 0, setting, Place(None)).config()
    expected, = cfg.model.distill.values()
    for name in BEST[task]:
        path = f'configs/{task}/{name}'
        assert f']({path})' in README
        found, = Config.fromfile(ROOT / path).model.distill.values()
        assert show(found) == show(expected), path


def test_figures_of_the_readme_are_those_of_the_report():
    report = (ROOT / 'docs/study/results.md').read_text()
    table = re.search(r'^\| data and task \|.*?(?=\n\n)', report, re.DOTALL | re.MULTILINE)[0]
    assert table in README
    differences = re.findall(r'[-+][\d.]+ \[[-+][\d.]+, [-+][\d.]+\]', README)
    assert len(differences) > 15  # the table's and those of the text
    assert [part for part in differences if part not in report] == []
