"""Data sets of labelled and unlabelled images, and their batches."""
import re
from itertools import chain, islice

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmakd.datasets import TransferBatchSampler, TransferSetDataset, has_labels
from mmakd.utils.errors import ConfigError


@DATASETS.register_module(force=True)
class Pictures(BaseDataset):
    """Image i of a data set is an index, with a label map of the same."""

    def __init__(self, number, first=0, classes=('a', 'b'), **options):
        self.numbers = range(first, first + number)
        super().__init__(metainfo=dict(classes=classes, source=first), **options)

    def load_data_list(self):
        return [dict(number=number) for number in self.numbers]

    def prepare_data(self, idx):
        number = self.get_data_info(idx)['number']
        sample = BaseDataElement(metainfo=dict(number=number))
        sample.gt_sem_seg = PixelData(data=torch.full((1, 2, 2), number))
        return dict(inputs=torch.full((3, 2, 2), number), data_samples=sample)


def pictures(number, first=0, **options):
    return dict(type='Pictures', number=number, first=first, **options)


def transfer_set(labelled=6, *unlabelled, ratio=0.5):
    parts = unlabelled or (10, )
    firsts = np.cumsum((labelled, *parts))
    return TransferSetDataset(pictures(labelled), [
        pictures(number, int(first)) for number, first in zip(parts, firsts)], ratio)


def numbers(dataset):
    return [dataset[index]['data_samples'].number for index in range(len(dataset))]


def test_labels_of_unlabelled_images_are_removed():
    dataset = transfer_set(3, 2, 4)
    assert numbers(dataset) == list(range(9)) and dataset.num_labelled == 3
    samples = [dataset[index]['data_samples'] for index in range(9)]
    assert [has_labels(sample) for sample in samples] == [True] * 3 + [False] * 6
    assert [sample.keys() for sample in samples] == [['gt_sem_seg']] * 3 + [[]] * 6
    # A mark of the sample in the batch, not of the data set's.
    assert has_labels(samples[0]) and not has_labels(samples[-1].clone())


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_real_data(task, toy):
    cfg = toy(task, 'student')
    init_default_scope(cfg.default_scope)
    own = cfg.train_dataloader.dataset
    dataset = TransferSetDataset(own, own)
    assert dataset.metainfo['classes'] == own.metainfo.classes
    labelled, unlabelled = (dataset[index]['data_samples'] for index in (0, 16))
    assert labelled.img_path == unlabelled.img_path
    if task == 'seg':
        assert 'gt_sem_seg' in labelled and 'gt_sem_seg' not in unlabelled
    else:
        assert len(labelled.gt_instances.labels)
        assert not len(unlabelled.gt_instances) and 'labels' not in unlabelled.gt_instances
        assert 'ignored_instances' not in unlabelled
        assert isinstance(unlabelled.gt_instances, InstanceData)


def test_wrapped_data_sets():
    repeated = dict(type='RepeatDataset', times=2, dataset=pictures(3))
    dataset = TransferSetDataset(repeated, pictures(2, 3))
    assert numbers(dataset) == [0, 1, 2, 0, 1, 2, 3, 4]
    assert dataset.num_labelled == 6


PROBLEMS = {
    'nothing unlabelled': (dict(unlabelled=[]), [r'dataset\.unlabelled=\[\]: no data set;']),
    'no image': (dict(labelled=pictures(0), unlabelled=[pictures(2), pictures(0)]), [
        r'dataset\.labelled: the data set has no image', r'dataset\.unlabelled\.1: .* no image']),
    'an empty list that is not serialised': (
        dict(unlabelled=pictures(0, serialize_data=False)), [r'dataset\.unlabelled: .* no image']),
    'other classes': (dict(unlabelled=pictures(2, classes=('a', 'c'))), [
        r"dataset\.unlabelled\.metainfo\.classes=\['a', 'c'\]: not those of .* \['a', 'b'\]"]),
    'two mistakes': (dict(ratio=1.5, unlabelled=dict(type='Picture')), [
        r'dataset\.ratio=1\.5: must be a number between 0 and 1',
        r"dataset\.unlabelled\.type='Picture': not registered; did you mean 'Pictures'"]),
    'no ratio': (dict(ratio=0), [r'dataset\.ratio=0: ']),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_errors(case):
    options, expected = PROBLEMS[case]
    with pytest.raises(ConfigError) as caught:
        TransferSetDataset(**{**dict(labelled=pictures(2), unlabelled=pictures(2, 2)), **options})
    assert len(caught.value.problems) == len(expected)
    for problem, pattern in zip(caught.value.problems, expected):
        assert re.match(rf'train_dataloader\.{pattern}', problem), problem


def batches(sampler, size, number=None, epoch=0):
    """The first batches, of an epoch if the sampler has epochs."""
    sampler.set_epoch(epoch)
    return list(islice(TransferBatchSampler(sampler, size), number))


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('ratio, size, labelled', [(0.5, 4, 2), (0.75, 4, 1), (1 / 3, 3, 2),
                                                   (0.1, 10, 9)])
def test_ratio_of_each_batch(kind, ratio, size, labelled):
    found = batches(kind(transfer_set(6, 5, 5, ratio=ratio), seed=0), size, 20)
    assert found
    for batch in found:
        assert [index < 6 for index in batch] == [True] * labelled + [False] * (size - labelled)


def test_epoch_is_a_pass_over_the_labelled_images():
    sampler = DefaultSampler(transfer_set(6, 10), seed=0)
    assert len(TransferBatchSampler(sampler, 4)) == 3
    epochs = [list(chain.from_iterable(batches(sampler, 4, epoch=epoch))) for epoch in range(5)]
    for epoch in epochs:
        assert sorted(index for index in epoch if index < 6) == list(range(6))
    assert epochs[0] != epochs[1]
    # The others go on where the last epoch ended.
    others = [index for epoch in epochs for index in epoch if index >= 6]
    assert all(sorted(others[begin:begin + 10]) == list(range(6, 16)) for begin in (0, 10, 20))
    # A place in the training is enough to go on.
    sampler.set_epoch(3)
    assert list(chain.from_iterable(TransferBatchSampler(sampler, 4))) == epochs[3]


def test_order():
    ordered = DefaultSampler(transfer_set(4, 3), shuffle=False, seed=0)
    assert batches(ordered, 4) == [[0, 1, 4, 5], [2, 3, 6, 4]]
    seeds = [batches(InfiniteSampler(transfer_set(4, 4), seed=seed), 4, 10) for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    # Parts of one size have orders of their own.
    assert any([index + 4 for index in batch[:2]] != batch[2:] for batch in seeds[0])


def test_ranks_share_the_images(monkeypatch):
    shares = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        batch_sampler = TransferBatchSampler(DefaultSampler(transfer_set(8, 8), seed=0), 4)
        assert len(batch_sampler) == 2
        shares += chain.from_iterable(batch_sampler)
    assert sorted(shares) == list(range(16))


def test_built_by_mmengine():
    loader = Runner.build_dataloader(dict(
        dataset=dict(type='TransferSetDataset', labelled=pictures(4), unlabelled=pictures(4, 4)),
        sampler=dict(type='DefaultSampler', shuffle=True), batch_size=4, num_workers=2,
        persistent_workers=True, batch_sampler=dict(type='TransferBatchSampler')), seed=0)
    assert len(loader) == 2 and loader.batch_sampler.batch_size == 4
    for _ in range(2):
        found = [[sample.number < 4 for sample in batch['data_samples']] for batch in loader]
        assert found == [[True, True, False, False]] * 2


def test_sampler_errors():
    data = transfer_set(4, 4)
    for ratio, size, fix in ((0.5, 3, 'ratio=1/3 or 2/3'), (0.3, 4, 'ratio=1/4 or 2/4'),
                             (0.5, 1, 'a larger batch_size'), (0.9, 4, 'ratio=3/4')):
        with pytest.raises(ConfigError, match=rf'^train_dataloader.dataset.ratio={ratio}: .* '
                                              rf'of batch_size={size} .* set {fix}$'):
            TransferBatchSampler(InfiniteSampler(transfer_set(ratio=ratio), seed=0), size)
    with pytest.raises(ConfigError, match=r"needs dataset.type='TransferSetDataset', not Pict"):
        TransferBatchSampler(InfiniteSampler(data.datasets[0], seed=0), 4)
    other = torch.utils.data.RandomSampler(data)
    other.dataset = data
    with pytest.raises(ConfigError, match=r"sampler.type='RandomSampler': .* needs Default"):
        TransferBatchSampler(other, 4)
