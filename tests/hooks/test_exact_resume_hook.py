"""What a resumed training sees and draws is what the uninterrupted one did."""
import warnings

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform, RandomApply, RandomChoice
from mmdet.datasets import AspectRatioBatchSampler
from mmdet.datasets.transforms import CachedMixUp, CachedMosaic
from mmengine.dataset import BaseDataset, ConcatDataset, InfiniteSampler, RepeatDataset
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import BatchSampler

from mmakd.hooks import ExactResumeHook

from .small_run import Numbers, Record, draw, make_runner


def train(work_dir, by_epoch=True, length=2, hooks=(), **more):
    record = Record()
    runner = make_runner(work_dir, by_epoch, length, [ExactResumeHook(), record, *hooks], **more)
    runner.train()
    stop_workers(runner)
    return runner, record.seen


def stop_workers(runner):
    """End them before the next ones start, whose copies of the pipes would keep them alive."""
    infinite = getattr(runner.train_loop, 'dataloader_iterator', None)
    for iterator in (runner.train_dataloader._iterator, getattr(infinite, '_iterator', None)):
        if hasattr(iterator, '_shutdown_workers'):
            iterator._shutdown_workers()


def assert_resumes(tmp_path, at, by_epoch=False, length=6, **more):
    """Compare the second part of a training with the resumed one; give all that was seen."""
    whole, expected = train(tmp_path / 'whole', by_epoch, length, **more)
    name = f'{"epoch" if by_epoch else "iter"}_{at}.pth'
    resumed, seen = train(tmp_path / 'resumed', by_epoch, length,
                          resume=tmp_path / 'whole' / name, **more)
    start = at * 5 if by_epoch else at
    assert sorted(seen) == list(range(start, resumed.max_iters))
    assert seen == {number: expected[number] for number in seen}
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value)
    return expected


@pytest.fixture
def logged(monkeypatch):
    """The warnings of the hook."""
    messages = []
    monkeypatch.setattr('mmakd.hooks.exact_resume_hook.print_log',
                        lambda message, *args, **kwargs: messages.append(message))
    return messages


@pytest.fixture
def no_pause(monkeypatch):
    """MMEngine waits two seconds between two passes over the data."""
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)


class Wide(Numbers):
    """As mmdet's data sets, with images of two shapes."""

    def get_data_info(self, index):
        return dict(width=2 + index % 3, height=3)


class Listed(BaseDataset):
    """As most data sets, with a pipeline."""

    def __init__(self, pipeline=()):
        super().__init__(pipeline=pipeline)

    def load_data_list(self):
        return [dict(number=number) for number in range(10)]

    def prepare_data(self, index):
        return Numbers()[index]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resumes_what_is_drawn(by_epoch, workers, tmp_path, logged):
    seen = assert_resumes(tmp_path, 2 if by_epoch else 3, by_epoch, 3 if by_epoch else 7,
                          workers=workers)
    assert not logged
    # Nothing is drawn twice, by neighbours in a batch, from pass to pass or within an iteration.
    drawn = [number for data, *draws in seen.values()
             for numbers in ([item[1:] for item in data], draws) for row in numbers
             for number in row]
    assert len(set(drawn)) == len(drawn)


def test_workers_make_no_difference(tmp_path):
    assert (train(tmp_path / 'none', val=False)[1] ==
            train(tmp_path / 'two', val=False, workers=2)[1])


@pytest.mark.parametrize('at', [2, 5, 7])
def test_sampler_that_cannot_skip_is_replayed(at, tmp_path, no_pause):
    # Five batches make a pass.
    seen = assert_resumes(tmp_path, at, length=12, interval=1, val=False,
                          sampler=dict(type='DefaultSampler', shuffle=True))
    augmented = [tuple(item[1:]) for data, *_ in seen.values() for item in data]
    assert len(set(augmented)) == len(augmented)


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('workers', [0, 1])
def test_batch_sampler_of_mmdet(by_epoch, workers, tmp_path):
    batch_sampler = dict(type=AspectRatioBatchSampler, drop_last=True)
    whole, expected = train(tmp_path / 'whole', by_epoch, 2 if by_epoch else 6, dataset=Wide(),
                            batch_sampler=batch_sampler, workers=workers, val=False)
    name, start = ('epoch_1.pth', whole.max_iters // 2) if by_epoch else ('iter_3.pth', 3)
    _, seen = train(tmp_path / 'resumed', by_epoch, 2 if by_epoch else 6, dataset=Wide(),
                    batch_sampler=batch_sampler, workers=workers, val=False,
                    resume=tmp_path / 'whole' / name)
    assert seen and seen == {number: expected[number] for number in expected if number >= start}


def test_batch_sampler_of_torch(tmp_path):
    # MMEngine skips at the sampler where it knows the batch sampler, which is then hidden.
    assert_resumes(tmp_path, 3, batch_sampler=dict(type=BatchSampler, drop_last=True), val=False)


@pytest.mark.parametrize('wrap', [
    lambda data: RepeatDataset(data, 2), lambda data: ConcatDataset([data, data])])
def test_wrapped_data_sets(wrap, tmp_path):
    assert_resumes(tmp_path, 3, dataset=wrap(Listed()), val=False)


def test_resumed_twice(tmp_path):
    _, expected = train(tmp_path, False, 6)
    for at in (2, 4):
        _, seen = train(tmp_path, False, 6, resume=tmp_path / f'iter_{at}.pth')
        assert seen == {number: expected[number] for number in range(at, 6)}


def test_other_seeds_see_other_numbers(tmp_path):
    first, second = (train(tmp_path / str(seed), False, 2, seed=seed)[1] for seed in range(2))
    assert all(first[number] != second[number] for number in first)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_no_seed(by_epoch, tmp_path, logged):
    assert_resumes(tmp_path, 1 if by_epoch else 3, by_epoch, 2 if by_epoch else 6, seed=None)
    assert not logged


def test_validation_and_hooks_between_iterations_draw_freely(tmp_path):
    class Draw(Hook):
        def before_train_epoch(self, runner):
            draw()

        after_val_epoch = after_train_epoch = before_train = lambda self, *args, **kwargs: draw()

    quiet = train(tmp_path / 'quiet', val=False)[1]
    assert train(tmp_path / 'drawing', hooks=[Draw()])[1] == quiet


def test_loaded_weights_resume_nothing(tmp_path, logged):
    _, expected = train(tmp_path / 'first', seed=1)
    record = Record()
    runner = make_runner(tmp_path / 'second', True, 2, [ExactResumeHook(), record], seed=0)
    runner._load_from = str(tmp_path / 'first/epoch_1.pth')
    runner.train()
    fresh = train(tmp_path / 'third', seed=0)[1]
    assert record.seen == fresh != expected
    assert not logged


def test_checkpoint_is_read_as_data(tmp_path):
    runner, _ = train(tmp_path, False, 2)
    state = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    assert state['meta']['exact_resume'] == dict(world_size=1, sampler_seed=runner.seed)
    torch.save(state['meta']['exact_resume'], tmp_path / 'only.pth')
    torch.load(tmp_path / 'only.pth', weights_only=True)
    assert set(state) == {'meta', 'state_dict', 'message_hub', 'optimizer'}


@LOOPS.register_module()
class EagerLoop(IterBasedTrainLoop):
    """The loop of MMEngine 0.10.7, which loads ahead at once and replays on resume."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = EagerIterator(self.dataloader)

    def run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        for _ in range(self._iter):
            next(self.dataloader_iterator)
        while self._iter < self._max_iters:
            self.run_iter(next(self.dataloader_iterator))
        self.runner.call_hook('after_train')


class EagerIterator:
    def __init__(self, dataloader):
        self._iterator = iter(dataloader)

    def __next__(self):
        return next(self._iterator)


@pytest.mark.parametrize('workers', [0, 2])
def test_loop_that_loads_ahead(workers, tmp_path):
    loop = dict(type='EagerLoop')
    expected = train(tmp_path / 'lazy', False, 6, val=False)[1]
    whole, eager = train(tmp_path / 'eager', False, 6, val=False, workers=workers, train_cfg=loop)
    assert isinstance(whole.train_loop, EagerLoop)
    assert eager == expected
    _, seen = train(tmp_path / 'resumed', False, 6, val=False, workers=workers, train_cfg=loop,
                    resume=tmp_path / 'eager/iter_4.pth')
    assert seen == {number: expected[number] for number in (4, 5)}


def resume(tmp_path, name, **more):
    train(tmp_path / 'again', resume=tmp_path / name, **more)


def test_tells_of_a_checkpoint_without_the_hook(tmp_path, logged):
    make_runner(tmp_path, True, 1).train()
    resume(tmp_path, 'epoch_1.pth')
    assert logged == ['ExactResumeHook: a resumed training is not exact: '
                      'the checkpoint was saved without ExactResumeHook']


def test_tells_of_another_number_of_processes(tmp_path, logged):
    train(tmp_path, length=1)
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    state['meta']['exact_resume']['world_size'] = 2
    torch.save(state, tmp_path / 'epoch_1.pth')
    resume(tmp_path, 'epoch_1.pth')
    assert [message.split(': ')[2] for message in logged] == [
        'the checkpoint was saved by 2 processes, now there are 1']


def test_tells_of_a_gradient_that_is_lost(tmp_path, logged):
    train(tmp_path, False, 4, accumulative_counts=2)
    resume(tmp_path, 'iter_4.pth', by_epoch=False, length=6, accumulative_counts=2)
    assert not logged
    resume(tmp_path, 'iter_3.pth', by_epoch=False, length=6, accumulative_counts=2)
    assert len(logged) == 1 and 'accumulated over 2 iterations' in logged[0]


def test_tells_of_an_epoch_that_restarts(tmp_path, logged):
    train(tmp_path, checkpoint=dict(by_epoch=False, interval=1))
    resume(tmp_path, 'iter_5.pth')
    assert not logged
    resume(tmp_path, 'iter_7.pth')
    assert len(logged) == 1 and 'iteration 7 was saved within an epoch' in logged[0]


def test_tells_of_the_best_checkpoint(tmp_path, logged):
    schedule = dict(param_scheduler=dict(type='ConstantLR', end=2))
    train(tmp_path, checkpoint=dict(save_best='score', rule='greater'), **schedule)
    resume(tmp_path, 'best_score_epoch_2.pth', length=3, **schedule)
    assert [message.split(': ')[2] for message in logged] == [
        'the checkpoint has no state of optimizer, which restarts',
        'the checkpoint has no state of param_schedulers, which restarts']


def test_tells_of_data_that_restart(tmp_path, logged):
    if 'fast_forward_on_resume' not in IterBasedTrainLoop.__init__.__code__.co_varnames:
        pytest.skip('MMEngine before 0.10.8')
    more = dict(train_cfg=dict(fast_forward_on_resume=True), by_epoch=False, length=3)
    train(tmp_path, **more)
    assert not logged
    resume(tmp_path, 'iter_2.pth', **more)
    assert len(logged) == 1 and 'fast_forward_on_resume=True' in logged[0]


@pytest.mark.parametrize('more, told', [
    (dict(hooks=[dict(type='EarlyStoppingHook', monitor='score', rule='greater')]),
     'EarlyStoppingHook forgets'),
    (dict(param_scheduler=dict(type='ReduceOnPlateauLR', monitor='score', rule='greater')),
     'ReduceOnPlateauLR follows the validation')])
def test_tells_at_the_start_what_no_checkpoint_holds(more, told, tmp_path, logged):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train(tmp_path, length=1, **more)
    assert len(logged) == 1 and told in logged[0]


@pytest.mark.parametrize('wrap', [
    lambda transform: Listed([transform]),
    lambda transform: Listed([RandomApply([transform])]),
    lambda transform: Listed([RandomChoice([[transform], []])]),
    lambda transform: RepeatDataset(Listed([transform]), 2),
    lambda transform: ConcatDataset([Listed(), Listed([transform])])])
def test_tells_of_transforms_that_remember(wrap, tmp_path, logged):
    class Memory(BaseTransform):
        results_cache = []

        def transform(self, results):
            return results

    train(tmp_path, length=1, dataset=wrap(Memory()), val=False)
    assert [message.split(': ')[2] for message in logged] == [
        'the transform Memory remembers earlier images, which no checkpoint has']


@pytest.mark.parametrize('transform', [CachedMosaic, CachedMixUp])
def test_knows_the_transforms_of_mmdet(transform):
    assert hasattr(transform((8, 8)), 'results_cache')


class Remembering(Numbers):
    """Mixes an item with the one before it, as a cached mosaic does."""

    def __init__(self):
        self.last = torch.zeros(4)

    def __getitem__(self, index):
        item = super().__getitem__(index)['inputs']
        mixed, self.last = torch.where(item >= 1, item, self.last), item
        return dict(inputs=mixed)


def test_memory_of_a_transform_is_lost(tmp_path):
    if not hasattr(InfiniteSampler, 'skip'):
        pytest.skip('MMEngine before 0.10.8 loads again what was trained on before')
    _, expected = train(tmp_path / 'whole', False, 4, dataset=Remembering(), val=False)
    _, seen = train(tmp_path / 'resumed', False, 4, dataset=Remembering(), val=False,
                    resume=tmp_path / 'whole/iter_2.pth')
    first, second = (np.array(run[2][0]) for run in (expected, seen))
    # The first item behind the interruption mixes with none; what follows is the same.
    assert (first[0] != second[0]).any()
    assert (first[1] == second[1]).all()
    assert seen[3] == expected[3]
