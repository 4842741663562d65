"""What our hooks ask a Runner."""
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrapped_model(runner: Runner) -> nn.Module:
    """Return a Runner's model without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def is_training(runner: Runner) -> bool:
    """Tell in ``before_run`` whether the Runner is going to train.

    MMEngine calls ``before_run`` for validation and test too. To read ``runner.train_loop`` there
    would build the training's data set.
    """
    return not isinstance(runner.optim_wrapper, dict) and runner.train_loop is not None
