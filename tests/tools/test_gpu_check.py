"""The command that a GPU waits for: rehearsed on the CPU, and what it says where things fail."""
import json
import os
import shutil
import sys
import time
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest
import torch

import gpu_check
from gpu_steps import agreement, step
from gpu_steps.agreement import check_agreement
from gpu_steps.all_steps import STEPS
from gpu_steps.page import update_page
from gpu_steps.step import Row, Setting, Step, at_most, run_step, status_of
from mmakd import losses
from mmakd.losses import FeatureMSELoss
from mmakd.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/gpu_check.py'
# One of each function; all of them are rehearsed by `make test-slow`.
CHOSEN = ['environment', 'avatars', 'seg-agreement', 'det-agreement', 'seg-speed', 'seg-profile',
          'seg-teacher', 'seg-resume', 'seg-cpu', 'seg-ema-on-cpu', 'det-memory', 'det-processes']
PAGE = 'Before.\n<!-- results: begin -->\nold\n<!-- results: end -->\nBehind.\n'


FILES = ['--report', 'page.md', '--out', 'out', '--work-dir', 'work']


def rehearse(python, folder, *options):
    (folder / 'page.md').write_text(PAGE)
    done = run([python, TOOL, '--device', 'cpu', '--quick', *options, *FILES], cwd=folder,
               text=True, stdout=PIPE, stderr=STDOUT, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command in this process: ``status, output = call(folder, '--quick')``."""

    def main(folder, *options):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, 'argv', ['gpu_check.py', *options, *FILES])
        status = gpu_check.main()
        return status, capsys.readouterr().out

    return main


@pytest.fixture(scope='module')
def rehearsed(tmp_path_factory, quick_python):
    folder = tmp_path_factory.mktemp('rehearsal')
    rehearse(quick_python, folder, '--steps', *CHOSEN)
    return folder


def test_every_chosen_step_passes(rehearsed):
    results = json.loads((rehearsed / 'out/cpu.json').read_text())
    assert list(results) == [name for name in STEPS if name in CHOSEN]
    for name, result in results.items():
        assert result['status'] == 'passed', (name, result)
        assert result['quick'] and result['machine'] and result['date'] and result['commit']
    for task in 'seg', 'det':
        rows = {row[0]: row[-1] for row in results[f'{task}-agreement']['rows']}
        assert {*rows, 'UncertaintyFeatureLoss'} == {*losses.__all__}
        other = 'FGDLoss' if task == 'seg' else 'BetaSmoothingLoss'
        assert rows.pop(other) == 'left out'
        assert {*rows.values()} == {'passed'}
    page = (rehearsed / 'page.md').read_text()
    assert page.startswith('Before.\n') and page.endswith('\nBehind.\n') and 'old' not in page
    assert 'GPU: not one step has run, its column is empty.' in page
    assert '| seg-resume | passed (4 of 4)' in page and '| det-compile |  |  |' in page


def test_what_has_finished_is_not_run_again(rehearsed, tmp_path, call):
    shutil.copytree(rehearsed / 'out', tmp_path / 'out')
    (tmp_path / 'page.md').write_text(PAGE)
    file = tmp_path / 'out/cpu.json'
    before = file.read_text()
    options = '--device', 'cpu', '--steps', 'environment', 'avatars', '--quick'
    status, output = call(tmp_path, *options)
    assert status == 0 and 'avatars: passed before' in output
    assert file.read_text() == before and not (tmp_path / 'work').exists()
    assert 'passed before' not in call(tmp_path, *options, '--again')[1]
    # A quick one does not stand for a full one.
    assert 'passed before' not in call(tmp_path, *options[:-1])[1]
    assert not json.loads(file.read_text())['avatars']['quick']


@pytest.mark.slow
def test_all_steps(tmp_path, quick_python):
    rehearse(quick_python, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(tmp_path, call):
    with pytest.raises(ConfigError, match=r'^--device=cuda: torch finds no GPU here; run on a '):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_as_cuda_needs_them(tmp_path, monkeypatch):
    """Started anew, not forked."""
    monkeypatch.setattr(Setting, 'start_method', 'spawn')
    assert run_step(STEPS['environment'], Setting('cpu', True, tmp_path))['status'] == 'passed'


def give(setting, found):
    if found == 'late':
        time.sleep(60)
    if found == 'dead':
        os._exit(3)
    if found == 'error':
        raise KeyError('no such key')
    return [at_most('good', 1.0, 2.0), at_most('bad', float('nan'), 2.0)]


@pytest.mark.parametrize('found, message', [
    ('late', 'ran for more than 1 s'), ('dead', 'ended with status 3'),
    ('error', "KeyError: 'no such key'"), ('rows', 'nan')])
def test_a_step_that_fails(found, message, tmp_path):
    result = run_step(Step('step', lambda setting: give(setting, found)),
                      Setting('cpu', True, tmp_path), time_limit=1 if found == 'late' else 60)
    assert result['status'] == 'failed' and result['seconds'] < 30
    assert message in result['rows'][-1][1] and result['rows'][-1][-1] == 'failed'


def test_detection_without_cuda_ops_has_not_run(tmp_path, monkeypatch, call):
    monkeypatch.setattr(step, 'has_cuda_ops', lambda: False)
    result = run_step(STEPS['det-speed'], Setting('cuda', True, tmp_path))
    assert result['status'] == 'not run' and 'build it with them' in result['rows'][0][1]
    monkeypatch.setattr(gpu_check, 'run_step', lambda *args: dict(result))
    (tmp_path / 'page.md').write_text(PAGE)
    for _ in range(2):  # it is tried again
        status, output = call(tmp_path, '--device', 'cpu', '--steps', 'det-speed')
        assert status == 1 and 'det-speed: not run,' in output


def test_one_bad_row_is_enough():
    rows = [Row('a', ''), Row('b', '', status='left out')]
    assert status_of(rows) == 'passed'
    assert status_of([*rows, Row('c', '', status='not run')]) == 'not run'
    assert status_of([*rows, Row('c', '', status='failed'), Row('d', '', status='not run')]) == (
        'failed')


def test_disagreement_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, 'CRITERIA', dict(FeatureMSELoss={}, PKDLoss={}))
    divergence = FeatureMSELoss.divergence
    monkeypatch.setattr(FeatureMSELoss, 'divergence', lambda *args: (
        divergence(*args) * (1 + 0.01 * torch.rand(()))))
    rows = check_agreement(Setting('cpu', True, tmp_path), 'seg')
    assert {row.what: row.status for row in rows} == dict(FeatureMSELoss='failed',
                                                          PKDLoss='passed')


def test_page_of_the_docs_is_that_of_its_results(tmp_path):
    shutil.copytree(ROOT / 'docs/gpu', tmp_path / 'gpu')
    page = Path(shutil.copy(ROOT / 'docs/gpu.md', tmp_path))
    update_page(page, tmp_path / 'gpu')
    assert page.read_text() == (ROOT / 'docs/gpu.md').read_text()
