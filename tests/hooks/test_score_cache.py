"""Scores on disk, and what they are kept under."""
import os

import pytest
import torch
from torch import nn

from mmakd.hooks.score_cache import ScoreCache, digest

SCORES = dict(mIoU=12.5, aAcc=float('inf'))


def test_what_is_kept_is_read(tmp_path):
    cache = ScoreCache(tmp_path / 'new' / 'folder')
    assert cache.load('a') is None
    cache.save('a', SCORES, teacher='x.pth')
    cache.save('b', {})
    assert cache.load('a') == SCORES and cache.load('b') == {}
    cache.save('a', dict(mIoU=1.0))
    assert cache.load('a') == dict(mIoU=1.0)
    assert sorted(os.listdir(cache.folder)) == ['a.json', 'b.json']


@pytest.mark.parametrize('content', [
    b'', b'{"scores": {"mIoU"', b'null', b'[]', b'{}', b'{"scores": [1]}', b'\xff\xfe',
    b'{"scores": {"mIoU": "high"}}', b'{"scores": {"mIoU": null}}'])
def test_damaged_file_counts_as_none(tmp_path, content):
    (tmp_path / 'a.json').write_bytes(content)
    assert ScoreCache(tmp_path).load('a') is None


def test_interrupted_writing_leaves_the_file(tmp_path, monkeypatch):
    cache = ScoreCache(tmp_path)
    cache.save('a', SCORES)

    def fail(*args):
        raise OSError('disk full')

    monkeypatch.setattr('os.replace', fail)
    cache.save('a', dict(mIoU=0.0))
    assert cache.load('a') == SCORES
    assert os.listdir(tmp_path) == ['a.json']


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_text('')
    cache = ScoreCache(tmp_path / 'file')
    cache.save('a', SCORES)
    assert cache.load('a') is None and (tmp_path / 'file').read_text() == ''


class Network(nn.Module):

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.register_buffer('values', torch.ones(2, 3, dtype=dtype).t())
        self.register_buffer('count', torch.tensor(3))


def test_digest_tells_weights_and_settings_apart():
    changed, counted, reshaped = Network(), Network(), Network()
    changed.values[2, 1] += 1e-6
    counted.count += 1
    reshaped.values = reshaped.values.reshape(6)
    digests = [digest(network, dict(a=1)) for network in (
        Network(), changed, counted, reshaped, Network(torch.bfloat16))]
    digests += [digest(Network(), dict(a=2)), digest(Network(), dict(a=1), 1)]
    assert len(set(digests)) == len(digests)
    assert digest(Network(), dict(a=1)) == digests[0] and len(digests[0]) == 64
