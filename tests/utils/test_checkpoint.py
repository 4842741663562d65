"""Files that are not what they should be, read by the tools and by the Runner."""
import json
import os
import zipfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_external_models

from mmakd.utils import checkpoint
from mmakd.utils.checkpoint import (
    TORCH_READS_SAFELY,
    _trusted,
    fetch,
    read_checkpoint,
    read_checkpoints_safely,
    read_state_dict,
    trust,
)
from mmakd.utils.cli import build_runner
from mmakd.utils.errors import ConfigError

KEY = 'load_from=...'
needs_safe_torch = pytest.mark.skipif(
    not TORCH_READS_SAFELY, reason='before 2.6 torch reads files of trusted origin only')


class Harmful:

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker, )


@pytest.fixture(autouse=True)
def _mmengine_reads_as_before():
    schemes = dict(CheckpointLoader._schemes)
    yield
    CheckpointLoader._schemes = schemes
    _trusted.clear()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint with logs, as a Runner saves it."""
    path = tmp_path_factory.mktemp('trained') / 'epoch_1.pth'
    history = HistoryBuffer([1., 2.], [1, 1])
    torch.save(dict(state_dict=dict(weight=torch.arange(4.)), meta=dict(epoch=1, iter=4),
                    message_hub=dict(log_scalars=dict(loss=history))), path)
    return path


def flip_a_bit(path: Path) -> None:
    """Flip one in the middle of the weights, not in the index of the archive."""
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[info.header_offset + len(info.FileHeader()) + info.file_size // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    'empty': lambda path: path.write_bytes(b''),
    'truncated': lambda path: path.write_bytes(path.read_bytes()[:-40]),
    'half': lambda path: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]),
    'flipped': flip_a_bit,
    'text': lambda path: path.write_text('<html>404</html>'),
}


def test_logs_come_back(trained):
    history = read_checkpoint(trained, KEY)['message_hub']['log_scalars']['loss']
    assert history.mean() == 1.5 and history.statistics('max') == 2


@pytest.mark.parametrize('core', ['core', '_core'])
def test_logs_that_any_numpy_wrote(trained, tmp_path, core):
    """NumPy 2.0 renamed the module that its pickles name."""
    path, written = tmp_path / 'epoch_1.pth', f'numpy.{core}.'.encode()
    with zipfile.ZipFile(trained) as source, zipfile.ZipFile(path, 'w') as copy:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith('data.pkl'):
                data = data.replace(b'numpy._core.', b'numpy.core.').replace(
                    b'numpy.core.', written)
                assert written in data
            copy.writestr(name, data)
    history = read_checkpoint(path, KEY)['message_hub']['log_scalars']['loss']
    assert history.mean() == 1.5


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_files(trained, tmp_path, damage):
    path = tmp_path / 'epoch_1.pth'
    big = torch.load(trained, weights_only=False)
    big['state_dict']['weight'] = torch.arange(5000.)
    torch.save(big, path)
    DAMAGES[damage](path)
    with pytest.raises(ConfigError, match=r'^load_from=\.\.\.: not a readable checkpoint'):
        read_checkpoint(path, KEY)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut off, leave out, double or exchange a part."""
    first, second, third = sorted(rng.integers(0, len(data) + 1, 3))
    parts = data[:first], data[first:second], data[second:third], data[third:]
    flipped = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
        flipped[place] ^= 1 << rng.integers(0, 8)
    return rng.choice(np.array([
        bytes(flipped), parts[0], b''.join((parts[0], *parts[2:])),
        b''.join((*parts[:2], *parts[1:])), b''.join(parts[i] for i in (0, 2, 1, 3))], object))


@pytest.mark.parametrize('number', [
    pytest.param(100, id='100'), pytest.param(3000, id='3000', marks=pytest.mark.slow)])
def test_files_damaged_at_random(number, trained, tmp_path, tell):
    """Each is refused in one sentence or, where the damage is to nothing read, read as it was."""
    path = tmp_path / 'epoch_1.pth'
    rng = np.random.default_rng(0)
    whole, expected = trained.read_bytes(), read_checkpoint(trained, KEY)['state_dict']['weight']
    refused = 0
    for _ in range(number):
        path.write_bytes(damage(whole, rng))
        try:
            content = read_checkpoint(path, KEY)
        except ConfigError as error:
            refused += 1
            assert str(error).startswith(KEY)
        else:
            assert torch.equal(content['state_dict']['weight'], expected)
            assert content['meta'] == dict(epoch=1, iter=4)
    assert refused > 0.9 * number
    tell(f'damaged checkpoint files: {number}, of them {refused} refused, the others read as they '
         'were; lost: nothing')


@pytest.fixture
def evil(tmp_path):
    """A file with weights that makes the directory ``it_ran`` beside it when it is executed."""
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(1)), x=Harmful(tmp_path / 'it_ran')), path)
    return path


@pytest.fixture
def _trust_nothing(monkeypatch):
    monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)


@needs_safe_torch
def test_code_is_refused(evil, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(evil, KEY)
    assert 'posix.mkdir' in str(caught.value) and f'--trust {evil}' in str(caught.value)
    assert not (tmp_path / 'it_ran').exists()


@pytest.mark.usefixtures('_trust_nothing')
def test_code_can_be_allowed(evil, tmp_path):
    trust(evil)
    read_checkpoint(evil, KEY)
    assert (tmp_path / 'it_ran').exists()


def test_all_code_can_be_allowed(evil, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    read_checkpoint(evil, KEY)
    assert (tmp_path / 'it_ran').exists()


@pytest.mark.usefixtures('_trust_nothing')
def test_a_torch_that_cannot_read_safely_says_so(trained, monkeypatch):
    monkeypatch.setattr(checkpoint, 'TORCH_READS_SAFELY', False)
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(trained, KEY)
    for part in (f'{KEY}: torch {torch.__version__} ', 'install torch >= 2.6',
                 f'--trust {trained}', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'):
        assert part in str(caught.value)
    trust(trained)
    assert read_checkpoint(trained, KEY)['meta'] == dict(epoch=1, iter=4)


@needs_safe_torch
@pytest.mark.parametrize('attribute', ['__class__', 'register_statistics', '__init__'])
def test_getattr_finds_nothing_but_statistics(tmp_path, attribute):

    class Reach:

        def __reduce__(self):
            return getattr, (HistoryBuffer, attribute)

    path = tmp_path / 'evil.pth'
    torch.save(dict(x=Reach()), path)
    with pytest.raises(ConfigError, match='would have to be executed'):
        read_checkpoint(path, KEY)


@needs_safe_torch
def test_programs_are_refused(tmp_path):
    path = tmp_path / 'script.pth'
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(ConfigError, match='holds more than weights'):
        read_checkpoint(path, KEY)


def test_places(tmp_path):
    with pytest.raises(ConfigError, match='a directory'):
        read_checkpoint(tmp_path, KEY)
    with pytest.raises(ConfigError, match='no such file'):
        read_checkpoint(tmp_path / 'none.pth', KEY)


def test_a_local_file_may_be_called_as_its_owner_likes(tmp_path):
    """What looks like a hash may be the date."""
    path = tmp_path / 'teacher-20240131.pth'
    torch.save(dict(weight=torch.ones(1)), path)
    assert torch.equal(read_state_dict(str(path), KEY)['weight'], torch.ones(1))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'cache/hub/checkpoints').mkdir(parents=True)
    return tmp_path / 'cache/hub/checkpoints'


# Nothing listens there, so what is not in the cache cannot be had.
URL = 'http://127.0.0.1:9'


def test_the_name_of_a_file_that_was_fetched_is_binding(cache, trained):
    digest = sha256(trained.read_bytes()).hexdigest()[:8]
    for name in f'net-{digest}.pth', 'net-0badf00d.pth':
        (cache / name).write_bytes(trained.read_bytes())
    assert list(read_state_dict(f'{URL}/net-{digest}.pth', KEY)) == ['weight']
    with pytest.raises(ConfigError, match=f'is damaged .*begins with {digest}, not with 0badf00d'):
        fetch(f'{URL}/net-0badf00d.pth', KEY)


def test_what_cannot_be_fetched(cache):
    with pytest.raises(ConfigError) as caught:
        fetch(f'{URL}/net.pth', KEY)
    for part in (f'{KEY}: download of {URL}/net.pth failed (', 'refused',
                 f'fetch it by other means to {cache / "net.pth"}', 'or name a local file'):
        assert part in str(caught.value)
    assert not list(cache.iterdir())


@needs_safe_torch
def test_mmengine_reads_the_same_way(trained, evil, tmp_path):
    read_checkpoints_safely()
    content = CheckpointLoader.load_checkpoint(str(trained), 'cpu')
    assert content['message_hub']['log_scalars']['loss'].mean() == 1.5
    with pytest.raises(ConfigError, match='holds more than weights'):
        CheckpointLoader.load_checkpoint(str(evil), 'cpu')
    assert not (tmp_path / 'it_ran').exists()


def test_names_of_pretrained_weights(cache, tmp_path, monkeypatch):
    """MMEngine's tables say which address they have."""
    (tmp_path / 'open_mmlab.json').write_text(json.dumps(dict(net=f'{URL}/net.pth')))
    monkeypatch.setitem(checkpoint._MODEL_TABLES, 'mmcls', get_external_models)
    torch.save({'backbone.weight': torch.ones(1), 'head.weight': torch.ones(1)}, cache / 'net.pth')
    read_checkpoints_safely()
    for name in 'open-mmlab://net', 'openmmlab://net':
        assert list(CheckpointLoader.load_checkpoint(name)) == ['backbone.weight', 'head.weight']
    # A classifier's are those of its backbone.
    assert CheckpointLoader.load_checkpoint('mmcls://net') == {'weight': torch.ones(1)}


@pytest.mark.parametrize('name, message', [
    ('open-mmlab://resnet18_v1x', "unknown name; did you mean 'resnet18_v1c'"),
    ('open-mmlab://net', f'download of {URL}/net.pth failed ('),
    ('mmcls://resnet19', "unknown name; did you mean 'resnet"),
    *([('torchvision://resnet50', 'the name cannot be looked up (No module named')]
      if find_spec('torchvision') is None else []),
    ('resnet.pth', 'no such file; name an existing checkpoint'),
])
def test_pretrained_weights_that_cannot_be_had(name, message, cache, tmp_path):
    (tmp_path / 'open_mmlab.json').write_text(json.dumps(dict(net=f'{URL}/net.pth')))
    read_checkpoints_safely()
    with pytest.raises(ConfigError) as caught:
        CheckpointLoader.load_checkpoint(name)
    assert str(caught.value).startswith(f'pretrained weights {name!r}: {message}')


@pytest.fixture
def checkpoints(toy, train):
    """The checkpoints of a short plain training and of a short distillation."""
    found = {}
    for name in ('student', 'akd-cwd'):
        cfg = toy('det', name)
        train(cfg)
        found[name] = f'{cfg.work_dir}/epoch_1.pth'
    return found


def test_what_the_tools_load(toy, checkpoints, tmp_path):
    """Whole where it is resumed or tested, in part where a training starts from it."""

    def build(name, checkpoint, resume=False, partial=False):
        cfg = toy('det', name)
        cfg.load_from, cfg.resume = checkpoint, resume
        cfg.work_dir = str(tmp_path / f'{name}_{resume}')
        return build_runner(cfg, partial)

    for name in checkpoints:
        for path in checkpoints.values():
            build(name, path)
    build('teacher', checkpoints['student'], partial=True)
    with pytest.raises(ConfigError) as caught:
        build('teacher', checkpoints['student'])
    for part in ('load_from=', 'does not fit the model', 'keys of another shape'):
        assert part in str(caught.value)
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'weight': torch.ones(1)}), other)
    with pytest.raises(ConfigError, match='none of its weights'):
        build('student', str(other), partial=True)


def test_a_resumed_run_reads_its_logs(toy, checkpoints):
    cfg = toy('det', 'akd-cwd', iters=8)
    cfg.load_from, cfg.resume = checkpoints['akd-cwd'], True
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 8
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 8
