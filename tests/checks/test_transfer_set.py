"""Transfer sets are checked before training, and before their files are read."""
import pytest

from mmakd.checks import inspect_config
from mmakd.checks.preflight import check_before_training, train
from mmakd.utils.errors import ConfigError

LOADER = 'train_dataloader'
PROBLEMS = {
    'no whole number': ({f'{LOADER}.batch_size': 7}, [
        f'{LOADER}.dataset.ratio=0.5: 3.5 unlabelled images of batch_size=7 are no whole number']),
    'all unlabelled': ({f'{LOADER}.dataset.ratio': 1.0}, [f'{LOADER}.dataset.ratio=1.0: must be']),
    'a wrong argument': ({f'{LOADER}.dataset.share': 0.5}, [
        f'{LOADER}.dataset.share=0.5: TransferSetDataset has no such argument']),
    'no batch sampler, no data set': (
        {f'{LOADER}.batch_sampler': None, f'{LOADER}.dataset.unlabelled': []}, [
            f'{LOADER}.dataset.unlabelled=[]: no data set',
            f"{LOADER}.batch_sampler=None: does not keep the share of unlabelled images in each "
            "batch; set dict(type='TransferBatchSampler')"]),
    'a misspelt one': ({f'{LOADER}.batch_sampler.type': 'TransferBachSampler'}, [
        f"{LOADER}.batch_sampler.type='TransferBachSampler': not registered; did you mean "
        "'TransferBatchSampler'?"]),
    'classes of its own': (
        {f'{LOADER}.dataset.unlabelled.metainfo': dict(_delete_=True, classes=('a', 'b'))}, [
            f"{LOADER}.dataset.unlabelled.metainfo.classes=['a', 'b']: not those of"]),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_problems(case, toy):
    changes, expected = PROBLEMS[case]
    cfg = toy('seg', 'transfer', **changes)
    with pytest.raises(ConfigError) as caught:
        check_before_training(cfg)
    for found in caught.value.problems, inspect_config(cfg).problems.problems:
        assert len(found) == len(expected)
        for problem, beginning in zip(found, expected):
            assert problem.startswith(beginning)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_right_configs(task, toy):
    cfg = toy(task, 'transfer')
    check_before_training(cfg)
    found = inspect_config(cfg)
    assert not found.problems.problems
    assert found.classes['train data'] == found.classes['val data']
    # The labelled part is compared with the student's own data.
    assert not any('pipeline' in key for key, *_ in found.differences)


def test_student_without_a_teacher(toy):
    cfg = toy('seg', 'transfer')
    cfg.model = cfg.model.student
    with pytest.raises(ConfigError, match=r"^train_dataloader.dataset.type='TransferSetDataset': "
                                          'EncoderDecoder has no teacher'):
        check_before_training(cfg)


def test_what_reading_shows(toy):
    cfg = toy('seg', 'transfer', **{f'{LOADER}.dataset.unlabelled.indices': 0})
    message = rf'^{LOADER}.dataset.unlabelled: the data set has no image'
    with pytest.raises(ConfigError, match=message):
        train(cfg)
    assert [problem.startswith(f'{LOADER}.dataset.unlabelled: the data set has no image')
            for problem in inspect_config(cfg).problems.problems] == [True]


def test_missing_files(toy):
    cfg = toy('seg', 'transfer-mixed')
    cfg[LOADER].dataset.unlabelled[1].data_root = 'nowhere'
    with pytest.raises(ConfigError, match=r'dataset.unlabelled.1.data_prefix.img_path=.nowhere'):
        check_before_training(cfg)
