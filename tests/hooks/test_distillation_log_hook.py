"""DistillationLogHook in real trainings: its numbers against what was compared."""
import math

import pytest
import torch
from mmengine.runner import Runner

from mmakd.utils.errors import ConfigError


def with_hook(cfg, **options):
    cfg.default_hooks.log = dict(type='DistillationLogHook', **options)
    return cfg


@pytest.mark.parametrize(('task', 'name'), [('det', 'fpn'), ('seg', 'logits')])
def test_curves(task, name, toy, train):
    runner = Runner.from_cfg(with_hook(toy(task, 'akd-cwd'), interval=2))
    seen = []
    tasks = runner.model.distiller

    def record(module, args, loss):
        seen.append([float((s - t).norm() / t.norm()) for s, t in module.pairs(*args[:2])])

    tasks[name].register_forward_hook(record)
    runner.train()
    hub = {key.removeprefix('train/'): values.data[0].tolist()
           for key, values in runner.message_hub.log_scalars.items()}
    assert hub[f'distance/{name}'] == pytest.approx(
        [sum(levels) / len(levels) for levels in (seen[1], seen[3])], rel=1e-5)
    expected = [hub[f'distill.loss_{name}'][i] / hub['loss'][i] for i in (1, 3)]
    assert hub[f'distill_share/{name}'] == pytest.approx(expected, rel=1e-5)
    for level, loss in enumerate(tasks[name].losses):
        place = f'{name}.{level}'
        assert hub[f'sigma_min/{place}'][-1] == pytest.approx(float(loss.sigma[0].min()))
        assert hub[f'sigma_max/{place}'][-1] == pytest.approx(float(loss.sigma[0].max()))
        assert hub[f'sigma_min/{place}'][-1] < hub[f'sigma/{place}'][-1]
    times = hub['time_teacher']
    assert len(times) == 2 and all(0 < seconds < step for seconds, step in
                                   zip(times, (hub['time'][1], hub['time'][3])))


def test_other_iterations_and_results_are_those_without_it(toy, train):
    found = []
    for interval in (None, 3):
        cfg = toy('seg', 'akd-cwd', iters=2)
        runner = train(cfg if interval is None else with_hook(cfg, interval=interval))
        assert 'run' not in vars(runner.model.teachers['teacher'])
        found.append(runner)
    plain, hooked = found
    assert set(plain.message_hub.log_scalars) == set(hooked.message_hub.log_scalars)
    weights = hooked.model.state_dict()
    assert all(torch.equal(value, weights[key])
               for key, value in plain.model.state_dict().items())
    assert not hooked.model.distiller.logits._forward_hooks


def test_a_task_that_is_off(toy, train):
    cfg = with_hook(toy('seg', 'akd-cwd'), interval=1)
    cfg.default_hooks.schedule = dict(type='DistillationScheduleHook', stop=2)
    scalars = train(cfg).message_hub.log_scalars
    assert len(scalars['train/distance/logits'].data[0]) == 2
    assert len(scalars['train/time_teacher'].data[0]) == 2
    assert scalars['train/distill_share/logits'].data[0].tolist()[2:] == [0, 0]
    assert math.isfinite(scalars['train/distance/logits'].current())


def test_wrong_config(toy):
    with pytest.raises(ConfigError, match=r'interval=0: must be an integer >= 1'):
        Runner.from_cfg(with_hook(toy('seg', 'akd-cwd'), interval=0))
    runner = Runner.from_cfg(with_hook(toy('seg', 'student')))
    with pytest.raises(ConfigError, match='DistillationLogHook: the model has no distillation'):
        runner.train()
