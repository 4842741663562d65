"""Files that are not what they should be, read by the tools and by the Runner."""
import os
import zipfile
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmakd.utils.checkpoint import (
    _trusted,
    find_file,
    read_checkpoint,
    read_checkpoints_safely,
    trust,
)
from mmakd.utils.cli import build_runner
from mmakd.utils.errors import ConfigError

KEY = 'load_from=...'


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


def test_logs_come_back_where_they_are_wanted(trained):
    content = read_checkpoint(trained, KEY, with_logs=True)
    history = content['message_hub']['log_scalars']['loss']
    assert history.mean() == 1.5 and history.statistics('max') == 2
    # ... and are inert elsewhere
    other = read_checkpoint(trained, KEY)['message_hub']['log_scalars']['loss']
    assert not isinstance(other, HistoryBuffer)
    assert all(callable(method) for method in HistoryBuffer._statistics_methods.values())


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


def test_code_is_refused_and_can_be_allowed(tmp_path):
    path, marker = tmp_path / 'evil.pth', tmp_path / 'it_ran'
    torch.save(dict(state_dict=dict(weight=torch.ones(1)), x=Harmful(marker)), path)
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(path, KEY, with_logs=True)
    assert 'posix.mkdir' in str(caught.value) and f'--trust {path}' in str(caught.value)
    assert not marker.exists()
    trust(path)
    read_checkpoint(path, KEY)
    assert marker.exists()


@pytest.mark.parametrize('attribute', ['__class__', 'register_statistics', '__init__'])
def test_getattr_finds_nothing_but_statistics(tmp_path, attribute):

    class Reach:

        def __reduce__(self):
            return getattr, (HistoryBuffer, attribute)

    path = tmp_path / 'evil.pth'
    torch.save(dict(x=Reach()), path)
    with pytest.raises(ConfigError, match='would have to be executed'):
        read_checkpoint(path, KEY, with_logs=True)


def test_places(tmp_path):
    with pytest.raises(ConfigError, match='a directory'):
        find_file(str(tmp_path), KEY)
    with pytest.raises(ConfigError, match='no such file'):
        find_file(str(tmp_path / 'none.pth'), KEY)
    wrong = tmp_path / 'net-0badf00d.pth'
    torch.save(dict(weight=torch.ones(1)), wrong)
    with pytest.raises(ConfigError, match='not with 0badf00d'):
        find_file(str(wrong), KEY)


def test_an_interrupted_download_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))

    def download(response, *args, **kwargs):
        raise ConnectionResetError('cut off')

    monkeypatch.setattr(torch.hub, 'urlopen', download)
    with pytest.raises(ConfigError, match='download failed'):
        find_file('https://example.org/net-0badf00d.pth', KEY)
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_half_a_download_is_no_checkpoint(tmp_path, monkeypatch):
    """The connection ends in the middle of the file."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))

    class Response:
        headers = Message()
        left = [b'x' * 10]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def info(self):
            return self.headers

        def read(self, size):
            if not self.left:
                raise ConnectionResetError('cut off')
            return self.left.pop()

    monkeypatch.setattr(torch.hub, 'urlopen', lambda *args, **kwargs: Response())
    with pytest.raises(ConfigError, match='download failed'):
        find_file('https://example.org/net-0badf00d.pth', KEY)
    assert not list(tmp_path.rglob('*.pth'))


def test_mmengine_reads_the_same_way(trained, tmp_path):
    evil, marker = tmp_path / 'evil.pth', tmp_path / 'it_ran'
    torch.save(dict(x=Harmful(marker)), evil)
    read_checkpoints_safely()
    content = CheckpointLoader.load_checkpoint(str(trained), 'cpu')
    assert content['message_hub']['log_scalars']['loss'].mean() == 1.5
    with pytest.raises(ConfigError, match='holds more than weights'):
        CheckpointLoader.load_checkpoint(str(evil), 'cpu')
    assert not marker.exists()


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
        for checkpoint in checkpoints.values():
            build(name, checkpoint)
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
