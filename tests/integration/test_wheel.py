"""The wheel, installed outside the repository: what a user of mmdet or mmseg gets from pip."""
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.fileio import load

from mmakd.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PARTS = ('mmakd', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'README.md', 'model-index.yml',
         'LICENSE')


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """Build the wheel from a copy, which may hold no earlier build, and install it."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, source],
                   check=True)
    wheel, = folder.glob('*.whl')
    subprocess.run([*pip, 'install', '--no-deps', '--target', folder / 'site', wheel], check=True)
    return folder / 'site'


@pytest.fixture
def run(installed, workspace):
    """Run a command where only the installed package is found."""

    def call(*command, status=0):
        env = dict(os.environ, PYTHONPATH=str(installed), OMP_NUM_THREADS='1', MPLBACKEND='agg')
        done = subprocess.run([sys.executable, *map(str, command)], cwd=workspace, env=env,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == status, done.stdout[-3000:]
        return done.stdout

    return call


def test_holds_every_module(installed):
    """The editable installation beside it would hide that one is missing."""
    def modules(folder):
        return {path.relative_to(folder) for path in (folder / 'mmakd').rglob('*.py')
                if '.mim' not in path.parts}

    assert modules(installed) == modules(ROOT)


@pytest.mark.slow
def test_train_by_mmdet_and_look_at_it(installed, run, workspace):
    config = installed / 'mmakd/.mim/configs/det/toy/akd-cwd_retinanet_shapes.py'
    stock = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim/tools/train.py'
    assert str(installed) in run('-c', 'import mmakd; print(mmakd.__file__)')
    options = ['--cfg-options', 'model.teacher_ckpt=None']
    report = run('-m', 'mmakd', 'check', config, *options)
    assert 'Task fpn at neck' in report and 'No problem found.' in report
    trained = run(stock, config, '--work-dir', 'run', *options, 'train_cfg.max_epochs=1',
                  'train_cfg.val_interval=1', 'default_hooks.logger.interval=1')
    assert 'distill.loss_fpn' in trained and Path(workspace, 'run/epoch_1.pth').is_file()
    run('-m', 'mmakd', 'plot', 'run', '--out', 'curves.png')
    assert Path(workspace, 'curves.png').stat().st_size > 10000
    assert 'output_1_2' in run('-m', 'mmakd', 'export', config, 'run/epoch_1.pth', 'student.onnx')


def test_command(installed, run):
    listed = run('-m', 'mmakd')
    assert str(installed / 'mmakd/.mim/tools') in listed
    commands = [line.split()[0] for line in listed.splitlines() if line.startswith('  ')]
    assert {'check', 'plot', 'export', 'visualize'} <= set(commands) == set(COMMANDS)
    for script, _ in COMMANDS.values():
        assert (installed / f'mmakd/.mim/tools/{script}.py').is_file()
    assert 'usage: mmakd plot' in run('-m', 'mmakd', 'plot', '--help')
    assert "error: WORK_DIR='no': no such folder" in run('-m', 'mmakd', 'plot', 'no', status=1)
    assert "error: 'chek' is no command" in run('-m', 'mmakd', 'chek', status=2)
    entry_points, = installed.glob('mmakd-*.dist-info/entry_points.txt')
    assert 'mmakd = mmakd.__main__:main' in entry_points.read_text()


def test_model_index_names_every_config(installed):
    mim = installed / 'mmakd/.mim'
    found = []
    for metafile in load(mim / 'model-index.yml')['Import']:
        content = load(mim / metafile)
        collections = {collection['Name'] for collection in content['Collections']}
        for model in content['Models']:
            assert model['In Collection'] in collections
            assert Path(model['Config']).stem == model['Name']
            assert (mim / model['Config']).is_file()
            found.append(model['Config'])
    assert len(found) == len(set(found))
    assert set(found) == {path.relative_to(ROOT).as_posix()
                          for path in (ROOT / 'configs').rglob('*.py')
                          if not {'_base_', 'toy'} & set(path.parts)}
