"""Two trainings compared: weights, their averages, the optimizer, and what was logged."""
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner


def logged(runner: Runner) -> dict[str, list[float]]:
    """What the training logged, but for times."""
    return {key: values._log_history.tolist()
            for key, values in runner.message_hub.log_scalars.items()
            if key.startswith('train/') and 'time' not in key and 'memory' not in key}


def optimizer_state(runner: Runner) -> dict[str, tuple[dict, dict | None]]:
    """By name of parameter the settings of its group, and what the optimizer keeps for it."""
    optimizer = runner.optim_wrapper.optimizer
    groups = {id(parameter): {key: value for key, value in group.items() if key != 'params'}
              for group in optimizer.param_groups for parameter in group['params']}
    return {name: (groups.get(id(parameter), {}), optimizer.state.get(parameter))
            for name, parameter in runner.model.named_parameters()}


def averages(runner: Runner) -> dict[str, torch.Tensor]:
    """The weights of an EMAHook's model, if there is one."""
    return {key.removeprefix('module.'): value for hook in runner.hooks
            if isinstance(hook, EMAHook) for key, value in hook.ema_model.state_dict().items()}


def same(first: Any, second: Any) -> bool:
    """Whether two values, or collections of them, are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key])
                                                     for key in first)
    if isinstance(first, tuple):
        return all(map(same, first, second))
    return first == second


def assert_same_student(plain: Runner, distilled: Runner) -> None:
    """Weights, averages, optimizer and log are equal, as far as the plain student has them."""
    for parts in (lambda runner: runner.model.state_dict(), averages, optimizer_state):
        expected, found = parts(plain), parts(distilled)
        assert {key for key in found if not key.startswith('distiller.')} == set(expected)
        for key, value in expected.items():
            assert same(value, found[key]), key
    log = logged(distilled)
    assert len(set(logged(plain)['train/loss'])) > 1
    for key, values in logged(plain).items():
        assert log[key] == values, key
