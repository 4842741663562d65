"""tools/plot_log.py on the logs of real trainings."""
import json
from pathlib import Path

import pytest

import plot_log
from mmakd.utils.errors import ConfigError


@pytest.fixture
def runs(toy, train):
    """Train a distilled and a plain student, and return their work directories."""
    cfg = toy('seg', 'akd-cwd')
    cfg.default_hooks.log = dict(type='DistillationLogHook', interval=1)
    cfg.default_hooks.teacher_eval = dict(type='TeacherEvalHook', cache_dir='cache')
    return [train(each).work_dir for each in (cfg, toy('seg', 'student'))]


def logged(work_dir):
    file, = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_curves_of_two_trainings(runs, capsys):
    akd, student = map(plot_log.read_log, runs)
    lines = logged(runs[0])
    assert akd.unit == 'iteration'
    assert akd.train['loss'] == ([1, 2, 3, 4],
                                 [line['loss'] for line in lines if 'loss' in line])
    assert len(akd.train['distance/logits'].values) == 4
    metric = plot_log.find_metric([akd, student], None)
    assert metric == 'mIoU'
    assert akd.val[metric] == ([4], [line[metric] for line in lines if metric in line])
    figure = plot_log.draw([akd, student], {}, metric, None)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles[:2] == ['mIoU', 'losses']
    assert "distance of the student's maps to the teacher's" in titles
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[:2] == ['seg_akd-cwd', 'seg_student']
    assert labels[2].startswith('teacher: ')
    plot_log.main([runs[0], '--student', runs[1], '--out', 'plots/curves.svg'])
    assert 'plots/curves.svg' in capsys.readouterr().out
    assert 'sigma: mean, least and largest channel' in Path('plots/curves.svg').read_text()


def test_a_resumed_training_is_one_curve(runs):
    # As a run that was killed within a line, behind the checkpoint of iteration 2.
    later = Path(runs[1], '29991231_235959', 'vis_data')
    later.mkdir(parents=True)
    (later / 'scalars.json').write_text('{"lr": 1, "loss": 7.0, "step": 3}\n{"lr": 1')
    assert plot_log.read_log(runs[1]).train['loss'].steps == [1, 2, 3, 4]
    assert plot_log.read_log(runs[1]).train['loss'].values[2] == 7


def test_wrong_input(runs, workspace):
    Path('empty').mkdir()
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*'nowhere': no such folder.*'empty': "
                                          r'no \*/vis_data/scalars.json'):
        plot_log.main(['nowhere', 'empty', runs[0]])
    with pytest.raises(ConfigError, match=r"--metric='mIou'.*'mIoU'"):
        plot_log.main([runs[0], '--metric', 'mIou'])
    with pytest.raises(ConfigError, match=r"--keys='distance/logit'.*'distance/logits'"):
        plot_log.main([runs[0], '--keys', 'loss', 'distance/logit'])
    with pytest.raises(ConfigError, match=r"--out='curves.docx'"):
        plot_log.main([runs[0], '--out', 'curves.docx'])
