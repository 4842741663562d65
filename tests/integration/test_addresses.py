"""Checkpoints at addresses: two processes, and a server that counts what it is asked for."""
import json
import shutil
import textwrap
import time
from collections import Counter
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import multiprocessing, nn

from mmakd.losses.mask_tokens import MaskTokens

from .address_ranks import run_rank
from .collectives import build_model
from .file_server import FileServer

ROOT = Path(__file__).parents[2]
TOY = ROOT / 'configs/det/toy'
CONFIG = """
    _base_ = '{toy}/akd-cwd_retinanet_shapes.py'
    custom_imports = dict(imports=['mmakd', 'failing'], allow_failed_imports=False)
    model = dict(
        student=dict(
            backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='{url}/backbone.pth')),
            neck=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://neck'))),
        teacher='mmdet::shapes/teacher.py',
        teacher_ckpt='auto',
        distill=dict(masked=dict(tap='neck', loss=dict(
            type='MasKDLoss', tokens='{url}/tokens.pth', num_tokens=2))))
    load_from = '{url}/student.pth'
    train_cfg = dict(max_epochs=1)
    train_dataloader = dict(batch_size=4)
    val_cfg = val_dataloader = val_evaluator = None
    test_cfg = test_dataloader = test_evaluator = None
"""
FAILING = """
    from mmengine.dist import get_rank
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS


    @HOOKS.register_module()
    class FailsOnRank1(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if get_rank() == 1:
                raise RuntimeError('the disk is full')
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """The weights of the small models by module; the teacher's have their hash in their name."""
    folder = tmp_path_factory.mktemp('served')
    student, teacher = build_model('det', 'student'), build_model('det', 'teacher')
    tokens = nn.ModuleList(MaskTokens(2, 64, True) for _ in range(3))
    modules = dict(student=student, teacher=teacher, backbone=student.backbone, neck=student.neck)
    for name, module in modules.items():
        torch.save(dict(state_dict=module.state_dict()), folder / f'{name}.pth')
    torch.save({f'mask_modules.{name}': value for name, value in tokens.state_dict().items()},
               folder / 'tokens.pth')
    found = {name: folder / f'{name}.pth' for name in (*modules, 'tokens')}
    digest = sha256(found['teacher'].read_bytes()).hexdigest()
    found['teacher'] = found['teacher'].rename(folder / f'teacher_2x-{digest[:8]}.pth')
    return found


@pytest.fixture
def server(files):
    with FileServer(files['teacher'].parent) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def launch(server, files, workspace, fresh_script, monkeypatch, free_port):
    """Train in two processes, with an mmdet that ships one config, and the metafile beside it."""
    package, installed = workspace / 'site' / 'mmdet', Path(find_spec('mmdet').origin).parent
    configs = package / '.mim' / 'configs' / 'shapes'
    configs.mkdir(parents=True)
    for part in installed.iterdir():
        if part.name != '.mim':
            (package / part.name).symlink_to(part)
    (configs / 'teacher.py').write_text(f"_base_ = '{TOY}/teacher_retinanet_shapes.py'\n")
    (configs / 'metafile.yml').write_text(json.dumps(dict(Models=[
        dict(Name='teacher', Config='configs/shapes/teacher.py',
             Weights=f'{server.url}/{files["teacher"].name}')])))
    # MMEngine's own place for more names of pretrained weights.
    (workspace / 'open_mmlab.json').write_text(json.dumps(dict(neck=f'{server.url}/neck.pth')))
    (workspace / 'config.py').write_text(textwrap.dedent(CONFIG.format(toy=TOY, url=server.url)))
    (workspace / 'site' / 'failing.py').write_text(textwrap.dedent(FAILING))
    monkeypatch.setenv('PYTHONPATH', f'{workspace / "site"}:{ROOT}')
    monkeypatch.setenv('MMENGINE_HOME', str(workspace))
    monkeypatch.setenv('TORCH_HOME', str(workspace / 'cache'))
    monkeypatch.setenv('PORT', free_port)

    def run(*options):
        return fresh_script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, *options,
                            check=False)

    return run


def cached(home):
    """Names of the files in torch's cache, also of what is half-written."""
    return sorted(path.name for path in home.rglob('*') if path.is_file())


def test_each_file_is_fetched_once(launch, server, files, workspace):
    """By a training in two processes, whose teacher is the published one."""
    done = launch()
    assert done.returncode == 0, done.stdout[-5000:]
    assert f'Teacher loaded from {server.url}/{files["teacher"].name}' in done.stdout
    assert server.asked == Counter(path.name for path in files.values())
    assert cached(workspace / 'cache') == sorted(server.asked)


def test_a_teacher_that_cannot_be_fetched(launch, server, files, workspace):
    teacher = f'{server.url}/half/{files["teacher"].name}'
    begin = time.monotonic()
    done = launch('--cfg-options', f'model.teacher_ckpt={teacher}', 'load_from=None')
    assert time.monotonic() - begin < 300  # gloo waits for 1800
    assert done.returncode != 0
    messages = [line for line in done.stdout.splitlines() if line.startswith('error: ')]
    assert len(messages) == 1, done.stdout
    assert messages[0].startswith(
        f'error: model.teacher_ckpt={teacher!r}: download of {teacher} failed (its SHA-256')
    assert server.asked.total() == 1 and not cached(workspace / 'cache')


@pytest.mark.slow
def test_a_rank_that_fails_alone(launch):
    """In its first iteration: the other one does not wait for it, the cause is printed once."""
    begin = time.monotonic()
    done = launch('--cfg-options', 'default_hooks.failing.type=FailsOnRank1')
    assert time.monotonic() - begin < 300  # gloo waits for 1800
    assert done.returncode != 0
    message = 'fails in the first iteration: RuntimeError: the disk is full'
    assert done.stdout.count(message) == 1, done.stdout[-5000:]


# What is said of each module, beside the address.
KEYS = dict(
    teacher='model.teacher_ckpt={!r}: ',
    tokens='MasKDLoss.tokens={!r}: ',
    student='load_from={!r}: ',
    backbone='model.student: pretrained weights {!r}: ')


def test_all_that_is_read(server, files, tmp_path):
    """By two processes: from a server that breaks off, on two machines, from a full cache."""
    whole = {name: f'{server.url}/{files[name].name}' for name in KEYS}
    halves = {name: f'{server.url}/half/{files[name].name}' for name in KEYS}
    (tmp_path / 'machine0').mkdir()
    shutil.copy(files['student'], tmp_path / 'machine0' / 'file.pth')
    phases = [(1, halves), (2, whole), (1, whole)]
    multiprocessing.spawn(run_rank, (str(tmp_path), phases), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))

    assert first == second
    broken, lacking, full = first
    for name, address in halves.items():
        (problem, ), on_all_ranks = broken.pop(name)
        assert problem.startswith(f'{KEYS[name].format(address)}download of {address} failed (')
        assert on_all_ranks
    (problem, ), on_all_ranks = lacking.pop('file')  # which the second machine does not have
    assert problem.startswith('key: no such file') and on_all_ranks
    assert not broken and not lacking and not full
    names = [files[name].name for name in KEYS]
    assert cached(tmp_path / 'machine0') == sorted(['file.pth', *names])
    assert cached(tmp_path / 'machine1') == sorted(names)
    assert server.asked == Counter({**{f'half/{name}': 1 for name in names},
                                    **dict.fromkeys(names, 2)})
