"""Two gloo processes, started as a user starts them."""
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIG = {'det': 'akd-cwd_retinanet_shapes', 'seg': 'akd-cwd_pspnet_shapes'}
# Each rank writes its own state after the last iteration.
HOOK = """
    import torch
    from mmengine.dist import get_rank
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS


    @HOOKS.register_module()
    class DumpState(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            model = runner.model.module
            torch.save(model.state_dict(), f'rank{get_rank()}.pth')
            torch.save([sample.img_id if 'img_id' in sample else sample.img_path
                        for sample in data_batch['data_samples']], f'data{get_rank()}.pth')
"""


@pytest.mark.parametrize('task', [pytest.param('det', marks=pytest.mark.slow), 'seg'])
def test_ranks_agree(task, workspace, fresh_script, monkeypatch, free_port):
    (workspace / 'dump_state.py').write_text(textwrap.dedent(HOOK))
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/{task}/toy/{CONFIG[task]}.py'
        custom_imports = dict(imports=['mmakd', 'dump_state'], allow_failed_imports=False)
        model = dict(teacher_ckpt=None)
        custom_hooks = [dict(type='DumpState')]
        train_dataloader = dict(batch_size=8)
    """))
    monkeypatch.setenv('PYTHONPATH', str(workspace))
    monkeypatch.setenv('PORT', free_port)
    short = (['train_cfg.max_epochs=1', 'train_cfg.val_interval=1'] if task == 'det' else
             ['train_cfg.max_iters=1', 'train_cfg.val_interval=1'])
    fresh_script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, '--cfg-options', *short)

    first, second = (torch.load(f'rank{rank}.pth') for rank in range(2))
    assert torch.load('data0.pth') != torch.load('data1.pth')
    assert first.keys() == second.keys()
    sigma = [key for key in first if key.endswith('running_variance')]
    assert sigma and all(first[key].any() for key in sigma)
    for key, value in first.items():
        if 'running_mean' in key or key.endswith(('running_var', 'num_batches_tracked')):
            continue  # plain BatchNorm keeps its own statistics on each rank
        assert torch.equal(value, second[key]), key
