"""Queries of our hooks to a Runner."""
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrapped_model(runner: Runner) -> nn.Module:
    """Return a Runner's model without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def is_training(runner: Runner) -> bool:
    """Tell in ``before_run`` whether the Runner will train.

    MMEngine also calls ``before_run`` for validation and test, where reading ``runner.train_loop``
    would build the training data set.
    """
    return not isinstance(runner.optim_wrapper, dict) and runner.train_loop is not None
