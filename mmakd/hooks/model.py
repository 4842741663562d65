"""The model of a runner."""
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrapped_model(runner: Runner) -> nn.Module:
    """Give the model that a hook works on.

    Args:
        runner (Runner): The runner.

    Returns:
        nn.Module: Its model, without the wrapper of distributed training.
    """
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
