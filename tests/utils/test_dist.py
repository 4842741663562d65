"""Places and errors of processes; how two of them share these is in test_addresses.py."""
import os

import pytest

from mmakd.utils.cli import config_errors_as_messages
from mmakd.utils.dist import local_rank, same_on_all_ranks, take_place
from mmakd.utils.errors import ConfigError

# The third of four processes, the second on its machine.
PLACE = dict(RANK='2', WORLD_SIZE='4', LOCAL_RANK='1')
LAUNCHERS = {
    'pytorch': PLACE,
    'mpi': dict(OMPI_COMM_WORLD_RANK='2', OMPI_COMM_WORLD_SIZE='4',
                OMPI_COMM_WORLD_LOCAL_RANK='1'),
    'slurm': dict(SLURM_PROCID='2', SLURM_NTASKS='4', SLURM_LOCALID='1'),
}


@pytest.mark.parametrize('launcher', LAUNCHERS)
def test_place(launcher, monkeypatch):
    for name in PLACE:
        monkeypatch.setenv(name, '0')
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    take_place(launcher)
    assert local_rank() == 1
    assert {name: os.environ[name] for name in PLACE} == PLACE


def test_place_of_a_single_process(monkeypatch):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    take_place('none')
    assert local_rank() == 0 and not set(PLACE) & set(os.environ)


def test_one_process_agrees_with_itself():
    with same_on_all_ranks():
        pass
    with pytest.raises(ConfigError) as caught, same_on_all_ranks():
        raise ConfigError(['a=1: wrong', 'b=2: wrong'])
    assert caught.value.problems == ['a=1: wrong', 'b=2: wrong'] and caught.value.on_all_ranks


@pytest.mark.parametrize('rank, status', [('0', 'error: a=1: wrong'), ('1', 1)])
def test_one_process_of_a_machine_prints(rank, status, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', rank)
    with pytest.raises(SystemExit) as caught, config_errors_as_messages():
        raise ConfigError('a=1: wrong')
    assert caught.value.code == status
