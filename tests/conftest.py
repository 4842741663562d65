"""Real runs in the small: shapes of 64x64, a few images, the toy configs."""
import gc
import importlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner

from shapes.dataset import make_shapes
from shapes.patchwork import PATCHWORK
from tests import python_server

ROOT = Path(__file__).parent.parent
TOY = {'det': 'configs/det/toy/{}_retinanet_shapes.py',
       'seg': 'configs/seg/toy/{}_pspnet_shapes.py'}
_run_numbers = itertools.count()

torch.set_num_threads(1)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which ``data/shapes`` lies."""
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes(folder / 'data' / 'shapes', size=(64, 64), count=(16, 8), seed=0)
    make_shapes(folder / 'data' / 'patchwork', size=(64, 64), count=(16, 1),
                layouts=['cityscapes'], drawing=PATCHWORK)
    return folder


@pytest.fixture
def workspace(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory that holds the data, as a user's would."""
    (tmp_path / 'data').symlink_to(shapes / 'data')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(workspace: Path) -> Callable[..., Config]:
    """Load a toy config, shortened to a few iterations: ``toy('det', 'akd-cwd', **changes)``."""

    def load(task: str, name: str, iters: int = 4, **changes: object) -> Config:
        path = f'configs/{task}/toy/{name}.py' if name.endswith('_shapes') else (
            TOY[task].format(name))
        cfg = Config.fromfile(ROOT / path)
        cfg.work_dir = str(workspace / 'work' / f'{task}_{name}')
        cfg.experiment_name = f'{task}_{name}_{next(_run_numbers)}'
        cfg.train_dataloader.batch_size = 4
        cfg.default_hooks.logger.interval = 1
        if task == 'det':
            # Four iterations make an epoch of the 16 images.
            cfg.train_cfg.update(max_epochs=iters // 4, val_interval=iters // 4)
        else:
            cfg.train_cfg.update(max_iters=iters, val_interval=iters)
            cfg.default_hooks.checkpoint.interval = iters
        if 'teacher_ckpt' in cfg.model:
            cfg.model.teacher_ckpt = None
        cfg.merge_from_dict(changes)
        return cfg

    return load


@pytest.fixture
def model(toy: Callable[..., Config]) -> Callable[..., torch.nn.Module]:
    """Build the model of a toy config: ``model('det', 'akd-cwd', **changes)``."""

    def build(task: str, name: str = 'akd-cwd', **changes: object) -> torch.nn.Module:
        cfg = toy(task, name, **changes)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        return MODELS.build(cfg.model)

    return build


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a line printed at the end, whether or not the test passes: ``tell('30 kills')``."""
    # A property of the report, which a worker of pytest-xdist sends with it.
    return partial(record_property, 'told')


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have told."""
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    lines = [line for report in reports if getattr(report, 'when', None) == 'call'
             for name, line in report.user_properties if name == 'told']
    if lines:
        terminalreporter.section('tried')
        terminalreporter.write_line('\n'.join(lines))


@pytest.fixture(autouse=True, scope='session')
def _unformatted_configs():
    """Log and dump configs as they are: each Runner would take a second to format its own."""
    with pytest.MonkeyPatch.context() as patch:
        # Imported when it is needed, or at the top in mmengine before 0.10.8.
        for place in 'yapf.yapflib.yapf_api.FormatCode', 'mmengine.config.config.FormatCode':
            patch.setattr(place, lambda text, **style: (text, True), raising=False)
        yield


@pytest.fixture(autouse=True, scope='session')
def _frozen_imports():
    """Keep what the packages import out of garbage collections: MMEngine runs one a data set."""
    importlib.import_module('mmdet.apis')
    importlib.import_module('mmseg.apis')
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _default_scope():
    """Forget the scope that a test set."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def free_port() -> str:
    """A port that nothing listens on, for processes that find one another there."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


@pytest.fixture
def train() -> Callable[[Config], Runner]:
    """Train with a real Runner: ``runner = train(cfg)``."""

    def run(cfg: Config) -> Runner:
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    return run


@pytest.fixture(scope='session')
def quick_python() -> Iterator[Path]:
    """A Python for scripts that has imported what they need already."""
    with python_server.quick_python() as python:
        yield python


@pytest.fixture
def script(workspace: Path, quick_python: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a command in the workspace, without seconds of imports; on failure show its output."""
    return partial(run_command, workspace, quick_python)


@pytest.fixture
def fresh_script(workspace: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a command in the workspace as a user's shell would; on failure show its output."""
    return partial(run_command, workspace, Path(sys.executable))


def run_command(folder: Path, python: Path, *command: object, check: bool = True
                ) -> subprocess.CompletedProcess:
    """Run a command in a folder; ``sys.executable`` in it stands for any Python."""
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHON=str(python))
    done = subprocess.run(
        [str(python if part == sys.executable else part) for part in command], cwd=folder,
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert not check or done.returncode == 0, done.stdout[-5000:]
    return done
