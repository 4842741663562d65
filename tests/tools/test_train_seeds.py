"""tools/train_seeds.py: real trainings with seeds, and the table of their results."""
import json
from pathlib import Path

import pytest

import train_seeds
from mmakd.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(toy, workspace):
    """Write a short toy config: ``config('student')``."""

    def write(name):
        cfg = toy('seg', name, iters=2)
        cfg.pop('work_dir')
        cfg.pop('experiment_name')
        cfg.train_dataloader.batch_size = 2
        path = workspace / f'{name}_short.py'
        cfg.dump(path)
        return str(path)

    return write


def test_each_training_runs_once(config, workspace, capsys):
    paths = [config('student')]
    options = ['--seeds', '3', '5', '--results', 'found/results.json']
    train_seeds.main([*paths, *options])
    table = capsys.readouterr().out
    results = json.loads(Path('found/results.json').read_text())
    assert set(results) == {'student_short seed 3', 'student_short seed 5'}
    scores = [results[f'student_short seed {seed}']['metrics']['mIoU'] for seed in (3, 5)]
    mean = sum(scores) / 2
    deviation = abs(scores[0] - scores[1]) / 2**0.5
    assert table.splitlines()[-1] == (f'| student_short | {mean:.1f} | {deviation:.1f} | '
                                      f'{scores[0]:.1f}, {scores[1]:.1f} | +0.0 |')
    logs = {path: path.read_text() for path in Path('work_dirs/seeds').glob('*/log.txt')}
    assert len(logs) == 2
    train_seeds.main([*paths, *options])
    assert capsys.readouterr().out == table
    assert all(path.read_text() == text for path, text in logs.items())


@pytest.mark.slow
def test_launched_for_gpus(config, workspace, monkeypatch, free_port):
    monkeypatch.setenv('PORT', free_port)
    train_seeds.main([config('student'), '--seeds', '4', '--gpus', '1', '--cfg-options',
                      'train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=1'])
    folder, = Path('work_dirs/seeds').glob('student_short_4_*')
    log = (folder / 'log.txt').read_text()
    assert "launcher = 'pytorch'" in log and 'randomness = dict(seed=4)' in log
    assert (folder / 'iter_1.pth').is_file()


def test_rows_of_several_students_and_pairs():
    runs = [train_seeds.Run(f'configs/{name}.py', seed, 'x') for seed in (0, 1)
            for name in ('plain', 'peers')]
    results = {'plain seed 0': dict(metrics={'mIoU': 40.0}),
               'plain seed 1': dict(metrics={'mIoU': 44.0}),
               'peers seed 0': dict(metrics={'mIoU': 45.0, 'slim/mIoU': 30.0}),
               'peers seed 1': dict(metrics={'mIoU': 46.0, 'slim/mIoU': 32.0})}
    assert train_seeds.make_table(runs, results).splitlines()[2:] == [
        '| plain | 42.0 | 2.8 | 40.0, 44.0 | +0.0 |',
        '| peers | 45.5 | 0.7 | 45.0, 46.0 | +3.5 |',
        '| peers, slim | 31.0 | 1.4 | 30.0, 32.0 | -11.0 |']


def test_a_changed_config_is_another_training(config, workspace):
    path = config('student')
    before, = train_seeds.plan([path], [0])
    text = Path(path).read_text()
    Path(path).write_text(text.replace('max_iters=2', 'max_iters=3'))
    after, = train_seeds.plan([path], [0])
    assert before.key == after.key and before.work_dir != after.work_dir


def test_failures_are_told(config, workspace):
    path = config('cwd')
    text = Path(path).read_text()
    Path(path).write_text(text.replace("tap='decode_head.conv_seg'", "tap='decode_head.conv_sag'"))
    with pytest.raises(ConfigError, match=r"(?s)cwd_short seed 0: ended with status 1;.*did you "
                                          "mean 'decode_head.conv_seg'"):
        train_seeds.main([path, '--seeds', '0'])
    with pytest.raises(ConfigError, match=r"config='nowhere\.py': no such file"):
        train_seeds.main(['nowhere.py'])
