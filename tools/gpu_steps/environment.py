"""The machine: GPU, driver, torch, and mmcv with or without its CUDA ops."""
import subprocess
from importlib import import_module

import torch

from benchmark.comparison import PACKAGES
from benchmark.measure import describe_machine
from gpu_steps.step import BUILD_OPS, LEFT_OUT, NOT_RUN, PASSED, Row, Setting, has_cuda_ops


def check_environment(setting: Setting) -> list[Row]:
    """List what there is.

    Args:
        setting (Setting): Where.

    Returns:
        list[Row]: Rows; one says what to build where mmcv has no CUDA ops.
    """
    rows = [Row('machine', describe_machine(setting.device))]
    rows += [Row(package, import_module(package).__version__) for package in PACKAGES]
    if setting.device == 'cpu':
        return [*rows, Row('GPU', 'none: the CPU stands for it', status=LEFT_OUT)]
    properties = torch.cuda.get_device_properties(0)
    driver = subprocess.run(['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'],
                            capture_output=True, text=True, check=True).stdout.split()[0]
    return [
        *rows, Row('GPUs', str(torch.cuda.device_count())),
        Row('memory', f'{properties.total_memory / 2**30:.0f} GiB'),
        Row('compute capability', f'{properties.major}.{properties.minor}'),
        Row('driver', driver), Row('CUDA of torch', str(torch.version.cuda)),
        Row('cuDNN', str(torch.backends.cudnn.version())),
        Row('CUDA ops of mmcv', 'yes' if has_cuda_ops() else BUILD_OPS, 'yes',
            PASSED if has_cuda_ops() else NOT_RUN)]
