"""Values that are not finite, in real trainings: one decision for all ranks, and the iteration."""
import re
import socket
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

ROOT = Path(__file__).parents[2]
# Spoils the teacher of rank 1 alone, in the second iteration only.
HOOK = """
    import torch
    from mmengine.dist import get_rank
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS


    @HOOKS.register_module()
    class SpoilRank1(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            weight = runner.model.module.teacher.backbone.conv1.weight
            if get_rank() == 1 and runner.iter == 1:
                self.kept = weight.clone()
                weight.fill_(float('nan'))
            elif get_rank() == 1 and runner.iter == 2:
                weight.copy_(self.kept)

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            state = runner.model.module.state_dict()
            torch.save(dict(state, losses=outputs), f'rank{get_rank()}_{runner.iter}.pth')
"""


@pytest.mark.parametrize('skip', [False, True], ids=['stop', 'skip'])
def test_ranks_take_the_same_decision(skip, workspace, script, monkeypatch):
    (workspace / 'spoil.py').write_text(textwrap.dedent(HOOK))
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/det/toy/akd-cwd_retinanet_shapes.py'
        custom_imports = dict(imports=['mmakd', 'spoil'], allow_failed_imports=False)
        model = dict(teacher_ckpt=None, skip_nonfinite={skip})
        custom_hooks = [dict(type='SpoilRank1')]
        train_dataloader = dict(batch_size=2)
        train_cfg = dict(max_epochs=1, val_interval=9)
    """))
    monkeypatch.setenv('PYTHONPATH', str(workspace))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(free.getsockname()[1]))
    done = script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, check=skip)

    message = "not finite at iteration 1: the teacher's tap 'neck' (map 0) on rank 1"
    if not skip:
        assert done.returncode != 0
        # Each rank ends by its own message; none waits for the other until it is killed.
        assert len(re.findall('FloatingPointError: ' + re.escape(message), done.stdout)) == 2
        assert not Path('rank0_1.pth').exists() and Path('rank0_0.pth').exists()
        return
    assert message in done.stdout
    for iteration in range(4):
        states = [torch.load(f'rank{rank}_{iteration}.pth') for rank in range(2)]
        for state in states:
            loss = state['losses']['distill.loss_fpn']
            assert (loss == 0) == (iteration == 1)
            assert state['distiller.skipped_steps'] == (iteration >= 1)
            assert all(value.isfinite().all() for value in state.values()
                       if isinstance(value, torch.Tensor))
        weights = [state['bbox_head.retina_cls.weight'] for state in states]
        assert torch.equal(*weights)


@pytest.mark.parametrize('task', ['det', 'seg'])
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_the_iteration_is_the_runners(task, side, toy, train):

    @HOOKS.register_module(force=True)
    class Spoil(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 5:
                network = getattr(runner.model, side)
                with torch.no_grad():
                    network.backbone.layer3[0].conv1.weight.fill_(float('inf'))

    cfg = toy(task, 'akd-cwd', iters=8)
    cfg.custom_hooks = [dict(type='Spoil')]
    tap = 'neck' if task == 'det' else 'decode_head.conv_seg'
    with pytest.raises(FloatingPointError, match=(
            rf"^not finite at iteration 5: the {side}'s tap '{tap}' \(map 0\)")):
        train(cfg)
