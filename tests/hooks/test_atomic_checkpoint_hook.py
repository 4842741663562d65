"""At every moment there is a whole checkpoint, and the pointer names one."""
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.backends.registry_utils import backends

from mmakd.hooks import AtomicCheckpointHook, ExactResumeHook
from mmakd.hooks.atomic_checkpoint_hook import AtomicLocalBackend
from mmakd.utils.cli import last_checkpoint

from .small_run import Score, make_runner

BEST = dict(save_best='score', rule='greater')


def train(work_dir, length=3, resume=None, kind='AtomicCheckpointHook', by_epoch=False, interval=1,
          **checkpoint):
    Score.calls = int(Path(resume).stem.split('_')[1]) if resume else 0
    checkpoint.setdefault('type', kind)
    runner = make_runner(work_dir, by_epoch, length, [ExactResumeHook()], checkpoint=checkpoint,
                         resume=resume, interval=interval)
    runner.train()
    return runner


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir()
                  if path.is_file() and path.suffix != '.py')  # MMEngine's copy of the config


@pytest.fixture
def moments(tmp_path, monkeypatch):
    """What a kill would leave: copies of the folder, within each write and behind each change."""
    copies = []

    def watch(place, name):
        function = getattr(place, name)

        def watched(*args):
            copies.append(tmp_path / f'kill_{len(copies)}')
            shutil.copytree(tmp_path / 'run', copies[-1])
            return function(*args)

        monkeypatch.setattr(place, name, watched)

    for name in ('fsync', 'replace', 'remove'):
        watch(os, name)
    return copies


@pytest.mark.parametrize('more', [dict(), dict(max_keep_ckpts=1), dict(max_keep_ckpts=2, **BEST),
                                  dict(max_keep_ckpts=1, **BEST)])
def test_killed_at_any_moment(more, tmp_path, moments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = train('run', 3, **more).model.state_dict()
    final = names('run')
    killed, halves = list(moments), set()
    for copy in killed:
        halves.update(name.rsplit('.', 2)[0] for name in names(copy) if name.endswith('.part'))
        shutil.rmtree('run')
        shutil.copytree(copy, 'run')
        begun = [name for name in names('run') if name.startswith('iter')]
        assert all(zipfile.is_zipfile(Path('run', name)) for name in names('run')
                   if name.endswith('.pth'))
        pointer = Path('run/last_checkpoint')
        if pointer.exists():
            known = torch.load(pointer.read_text(), weights_only=False)['message_hub']
            best = known['runtime_info'].get('best_ckpt')
            assert best is None or Path(best).exists()
        found = last_checkpoint('run')
        assert (found is None) == (not begun)
        if begun:
            assert len(begun) <= more.get('max_keep_ckpts', 3) + 1
        resumed = train('run', 3, resume=found, **more).model.state_dict()
        assert all(torch.equal(resumed[key], whole[key]) for key in whole)
        left = set(names('run')) - set(final)
        # The best one as of a validation that a resumed run does not make up for.
        assert all(name.startswith('best_') for name in left) and len(left) <= 1
    # Every file was caught half written.
    written = ['last_checkpoint', *(f'{prefix}iter_{number}.pth' for number in (1, 2, 3)
                                    for prefix in ['', *['best_score_'] * ('rule' in more)])]
    assert halves == {f'.{name}' for name in written}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('more', [
    dict(), dict(max_keep_ckpts=1), dict(max_keep_ckpts=2, save_begin=2), dict(interval=2),
    dict(interval=2, save_last=False), dict(filename_tmpl='at_{}.pth'),
    dict(max_keep_ckpts=1, **BEST), dict(save_best='auto', rule='less'),
    dict(save_best=['score', 'other'], rule='greater', max_keep_ckpts=1),
    dict(published_keys=['state_dict'])])
def test_leaves_the_files_of_mmengine(more, by_epoch, tmp_path, monkeypatch):
    def metrics(self, results):
        Score.calls += 1
        return dict(score=Score.calls, other=-Score.calls)

    monkeypatch.setattr(Score, 'compute_metrics', metrics)
    runs = {}
    for kind in ('CheckpointHook', 'AtomicCheckpointHook'):
        runner = train(tmp_path / kind, 5, kind=kind, by_epoch=by_epoch, **more)
        left = [name.split('-')[0] for name in names(tmp_path / kind)]
        info = dict(runner.message_hub.runtime_info)
        runs[kind] = (left, info.get('keep_ckpt_ids'), Path(info['last_ckpt']).name,
                      Path((tmp_path / kind / 'last_checkpoint').read_text()).name)
    assert runs['AtomicCheckpointHook'] == runs['CheckpointHook']


def test_checkpoint_is_the_one_of_mmengine(tmp_path):
    states = []
    for kind in ('CheckpointHook', 'AtomicCheckpointHook'):
        train(tmp_path / kind, 2, kind=kind)
        states.append(torch.load(tmp_path / kind / 'iter_2.pth', weights_only=False))
    assert states[0].keys() == states[1].keys()
    assert states[0]['meta'].keys() == states[1]['meta'].keys()
    for key, value in states[0]['state_dict'].items():
        assert torch.equal(value, states[1]['state_dict'][key])


def test_removes_what_a_killed_run_left(tmp_path):
    work_dir, out_dir = tmp_path / 'run', tmp_path / 'out'
    for folder in (work_dir, out_dir / 'run'):
        folder.mkdir(parents=True)
        for name in ('.iter_1.pth.part', '.last_checkpoint.part', 'mine.part', '.mine'):
            (folder / name).write_text('half')
    train(work_dir, 1, out_dir=str(out_dir))
    assert names(work_dir) == ['.mine', 'last_checkpoint', 'mine.part']
    assert names(out_dir / 'run') == ['.mine', 'iter_1.pth', 'mine.part']
    assert (work_dir / 'last_checkpoint').read_text() == str(out_dir / 'run/iter_1.pth')


def test_full_disk_costs_the_new_file_only(tmp_path, monkeypatch):
    backend, path = AtomicLocalBackend(), tmp_path / 'new' / 'file'
    backend.put(b'old', path)

    def full(number):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        backend.put(b'new', path)
    assert path.read_bytes() == b'old'
    assert names(path.parent) == ['file']


def test_other_backends_write_themselves(tmp_path):
    written = []

    @register_backend('elsewhere', force=True)
    class Elsewhere(LocalBackend):
        def put(self, obj, filepath):
            written.append((Path(filepath).name, (tmp_path / 'run/last_checkpoint').exists()))
            super().put(obj, filepath)

    try:
        train(tmp_path / 'run', 2, backend_args=dict(backend='elsewhere'), max_keep_ckpts=1)
    finally:
        del backends['elsewhere']
    assert written == [('iter_1.pth', False), ('iter_2.pth', True)]
    assert names(tmp_path / 'run') == ['iter_2.pth', 'last_checkpoint']


def test_address_is_left_to_its_backend():
    hook = AtomicCheckpointHook(out_dir='s3://bucket')
    with pytest.raises(ImportError):  # that of petrel, which is not installed
        hook.before_train(type('Runner', (), dict(work_dir='run')))
    assert hook.backend_args is None
