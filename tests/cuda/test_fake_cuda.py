"""Distilled trainings on a fake GPU: no operation mixes devices, and a planted mistake is caught.

Not one kernel of CUDA runs here: see :mod:`tests.cuda.fake_cuda`.
"""
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from .trainings import CASES, MUTANTS, TAPS

FOLDER = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(torch.version.cuda is not None, reason='this torch has CUDA of its own'),
    pytest.mark.skipif(torch.__version__ < '2.9', reason='torch before 2.9 asks a device for '
                       'other things')]
# What mmcv's kernels for CUDA do not support, as those for CPUs; our error says so.
REFUSED = {'retinanet, bfloat16': 'sigmoid_focal_loss', 'faster_rcnn, bfloat16': 'ROIAlign'}

# mmdet's RoI extractor asks of each level which RoIs are its own; so the teacher's does.
OF_TEACHERS = dict(retinanet={}, faster_rcnn={'aten.nonzero.default': 4}, pspnet={})


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cuda')
    libraries, = cpp_extension.library_paths()[:1]
    subprocess.run([
        os.environ.get('CXX', 'c++'), '-std=c++20', '-shared', '-fPIC', FOLDER / 'fake_cuda.cpp',
        *(f'-I{path}' for path in cpp_extension.include_paths()), f'-L{libraries}', '-lc10',
        '-ltorch_cpu', '-o', folder / 'fake_cuda.so'], check=True)
    done = subprocess.run(
        [sys.executable, FOLDER / 'trainings.py', folder / 'fake_cuda.so', folder / 'out.json'],
        cwd=folder, env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(FOLDER.parents[1])),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-5000:]
    return json.loads((folder / 'out.json').read_text())


@pytest.mark.parametrize('case', [case for case in CASES if case not in REFUSED])
def test_training_is_that_of_the_cpu(case, trainings):
    name, precision, _ = CASES[case]
    found, expected = trainings['cuda'][case], trainings['cpu'][name]
    assert 'error' not in found, found
    logged = found['logged']
    assert logged.keys() == expected['logged'].keys()
    exact = precision == 'float32' and 'teacher' not in case
    for key, values in expected['logged'].items():
        # The kernels are those of the CPU: in float32 nothing differs.
        assert logged[key] == (values if exact else pytest.approx(values, rel=0.3, abs=1e-4)), key
    assert min(logged['train/distill.loss_task0']) > 0
    assert min(logged['train/distill_balance/share']) > 0
    assert logged['train/loss'][0] != logged['train/loss'][1]


@pytest.mark.parametrize('case', [case for case in CASES if case not in REFUSED])
def test_everything_is_on_the_gpu(case, trainings):
    devices = trainings['cuda'][case]['devices']
    assert devices['model'] == devices['teacher'] == ['cuda:0']
    # EMAHook's averages are where they are wanted, also those of adapters.
    assert devices['averages'] == (['cpu'] if 'EMA' in case else ['cuda:0'])


@pytest.mark.parametrize('case', REFUSED)
def test_bfloat16_without_a_kernel_is_explained(case, trainings):
    found = trainings['cuda'][case]
    assert found['error'] == 'ConfigError'
    assert found['message'].startswith('optim_wrapper: the student cannot be trained in bfloat16')
    assert REFUSED[case] in found['message']


@pytest.mark.parametrize('mutant', MUTANTS)
def test_a_wrong_device_is_caught(mutant, trainings):
    found = trainings['mutants'][mutant]
    assert re.search("on the same device|'c[a-z]*' device type for generator",
                     found['message']), found


@pytest.mark.parametrize('name', TAPS)
def test_a_distilled_step_waits_once_more(name, trainings):
    """Whether everything is finite is read once; nothing else is copied from or to the GPU."""
    plain, distilled = map(Counter, trainings['steps'][name])
    assert plain and not plain - distilled
    assert distilled - plain == {'aten._local_scalar_dense.default': 1, **OF_TEACHERS[name]}


def test_cpu_runs_on_the_cpu(trainings):
    assert {*TAPS} == {*trainings['cpu']}
    for found in trainings['cpu'].values():
        assert found['devices'] == {key: ['cpu'] for key in ('model', 'teacher', 'averages')}
