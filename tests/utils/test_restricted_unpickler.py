"""Files made by hand, read by torch where it is safe and by our own reader."""
import io
import pickle
import struct
import tarfile
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmakd import checkpoint
from mmakd.utils.checkpoint import read_checkpoint
from mmakd.utils.errors import ConfigError

KEY = 'load_from=...'


@pytest.fixture(params=['torch', 'ours'], autouse=True)
def reader(request, monkeypatch):
    if request.param == 'torch' and torch.__version__ < '2.10':
        pytest.skip('torch does not read safely before 2.10, and is not asked to')
    monkeypatch.setattr(checkpoint, '_torch_reads_safely', request.param == 'torch')
    return request.param


def write(path, program, storage=b''):
    """Write a file of torch's format by hand: a pickle program, and the bytes of a storage."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in {'version': b'3\n', 'data.pkl': b'\x80\x02' + program + b'.',
                           'data/0': storage}.items():
            archive.writestr(f'archive/{name}', data)
    return path


def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def tensor(length):
    """Build a vector of floats on storage 0."""
    return (b'ctorch._utils\n_rebuild_tensor_v2\n(('
            + text('storage') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu')
            + b'J' + struct.pack('<i', length) + b'tQK\x00J' + struct.pack('<i', length)
            + b'\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR')


def test_hand_made_tensor(tmp_path):
    values = torch.arange(3.)
    path = write(tmp_path / 'w.pth', b'}' + text('w') + tensor(3) + b's', values.numpy().tobytes())
    assert torch.equal(read_checkpoint(path, KEY)['w'], values)


@pytest.mark.parametrize('zipped', [True, False])
def test_values_of_all_kinds(tmp_path, zipped):
    """Files since torch 1.6, and as before it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    values = dict(state_dict=model.state_dict(), half=torch.ones(2, dtype=torch.bfloat16),
                  parameter=nn.Parameter(torch.ones(3)), size=torch.Size([1, 2]),
                  numbers=[1, -2, 300, 70000, 2**40, 0.5, True, None, 'text'], empty=((), [], {}),
                  nested=dict(a=[(1, 2, 3, 4)]), kinds=[torch.float16, {1, 2}, b'bytes'])
    path = tmp_path / 'w.pth'
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path, KEY)
    for name, value in read.pop('state_dict').items():
        assert torch.equal(value, values['state_dict'][name])
    assert values.pop('state_dict')._metadata == model.state_dict()._metadata
    for name in ('half', 'parameter'):
        expected = values.pop(name)
        assert torch.equal(read[name], expected) and type(read.pop(name)) is type(expected)
    assert read == values


@pytest.mark.parametrize('core', ['core', '_core'])
def test_numbers_of_any_numpy(tmp_path, core):
    """NumPy 2.0 renamed the module that its pickles name."""
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(loss=HistoryBuffer([1., 2.], [1, 1])), path)
    with zipfile.ZipFile(path) as archive:
        program = archive.read('epoch_1/data.pkl')
    program = program.replace(b'numpy._core.', b'numpy.core.').replace(
        b'numpy.core.', f'numpy.{core}.'.encode())
    assert f'numpy.{core}.multiarray'.encode() in program
    write(path, program[2:-1])
    assert read_checkpoint(path, KEY, with_logs=True)['loss'].mean() == 1.5
    assert list(read_checkpoint(path, KEY)) == ['loss']


HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
# And what our reader says of each.
PROGRAMS = {
    'a function': (b'cos\nmkdir\n' + text('it_ran') + b'\x85R', 'GLOBAL os.mkdir'),
    'by another instruction': (b'(' + text('it_ran') + b'ios\nmkdir\n', 'unknown instruction 105'),
    'by its name on the stack': (text('os') + text('mkdir') + b'\x93' + text('it_ran') + b'\x85R',
                                 'unknown instruction 147'),
    'a registered extension': (b'\x82\x01', 'unknown instruction 130'),
    'an instance': (b'csubprocess\nPopen\n' + text('true') + b'\x85\x81', 'GLOBAL subprocess.Pop'),
    'of Python 2': (b'c__builtin__\neval\n' + text('1') + b'\x85R', 'GLOBAL builtins.eval'),
    'a method of a tensor': (b'cbuiltins\ngetattr\n' + tensor(2) + text('numpy') + b'\x86R)R',
                             'getattr(tensor('),
    'a method of a class': (b'cbuiltins\ngetattr\n' + HISTORY + text('mean') + b'\x86R)R',
                            'GLOBAL mmengine.logging.history_buffer.HistoryBuffer.mean'),
    'an attribute of a class': (HISTORY + b'N}' + text('mean') + b'ctorch\nSize\ns\x86b',
                                'GLOBAL mmengine.logging.history_buffer.HistoryBuffer'),
    'an item of a tensor': (tensor(2) + b'K\x00K\x01s', 'GLOBAL torch.Tensor'),
    'items of a tensor': (tensor(2) + b'(K\x00K\x01u', 'GLOBAL torch.Tensor'),
    'an end of a tensor': (tensor(2) + b'K\x00a', 'GLOBAL torch.Tensor'),
    'ends of a tensor': (tensor(2) + b'(K\x00e', 'GLOBAL torch.Tensor'),
    'a state of a tensor': (tensor(2) + b'}' + text('x') + b'K\x01sb', 'GLOBAL torch.Tensor'),
    'a module': (b'(' + text('module') + b'ctorch\nTensor\n' + text('a') + text('b') + b'tQ',
                 'a module instead of a storage'),
    'a storage larger than its data': (tensor(1000), 'is shorter than it says'),
    'a storage of negative size': (tensor(-8), 'is shorter than it says'),
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_what_is_no_data_is_refused(tmp_path, monkeypatch, name, reader):
    program, reason = PROGRAMS[name]
    monkeypatch.chdir(tmp_path)
    path, marker = write(tmp_path / 'evil.pth', program, bytes(8)), tmp_path / 'it_ran'
    before = dict(vars(HistoryBuffer))
    message = r'^load_from=\.\.\.: (not a readable|holds more than)'
    with pytest.raises(ConfigError, match=message) as caught:
        read_checkpoint(path, KEY, with_logs=True)
    assert reader == 'torch' or reason in str(caught.value.__cause__)
    assert not marker.exists()
    assert dict(vars(HistoryBuffer)) == before
    if b'it_ran' in program:  # the file is harmful indeed
        pickle.loads(b'\x80\x02' + program + b'.')
        assert marker.exists()


def test_programs_of_torchscript_are_refused(tmp_path, monkeypatch):
    path, called = tmp_path / 'script.pth', []
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    monkeypatch.setattr(torch.jit, 'load', lambda *args, **kwargs: called.append(args))
    with pytest.raises(ConfigError, match='holds more than weights'):
        read_checkpoint(path, KEY)
    assert not called


def test_tar_archives_are_refused(tmp_path, monkeypatch):
    path, called = tmp_path / 'old.pth', []
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            data = pickle.dumps(0, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(tarfile.TarFile, 'extract', lambda *args, **kwargs: called.append(args))
    with pytest.raises(ConfigError, match='not a readable checkpoint'):
        read_checkpoint(path, KEY)
    assert not called
