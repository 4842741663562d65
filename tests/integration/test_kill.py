"""A training that is killed at any moment goes on from a whole checkpoint to the same end."""
import pytest
import torch

from .kill_harness import KillHarness
from .states import same

# (kills, iterations)
TIERS = [pytest.param(3, 30, id='3'),
         pytest.param(30, 260, id='30', marks=pytest.mark.slow)]


@pytest.mark.parametrize('kills, iters', TIERS)
def test_kills(kills, iters, workspace, quick_python, model, tell):
    torch.save(model('seg', 'teacher').state_dict(), workspace / 'teacher.pth')
    harness = KillHarness(workspace, quick_python, workspace / 'teacher.pth', iters)
    state = harness.run(kills)
    expected = harness.finish('uninterrupted')
    assert sum(harness.killed.values()) == kills
    assert harness.killed['writing'] >= kills // 2
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert not same(expected[part], state[part]), part
    tell(f'kills: {harness.killed["writing"]} within the write of a checkpoint, '
         f'{harness.killed["anywhere"]} elsewhere; lost: nothing')
