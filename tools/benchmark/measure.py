"""What the benchmark measures: time, peak memory and the size of a checkpoint."""
import copy
import io
import os
import platform
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_state_dict
from rich.progress import track
from torch.nn.modules.dropout import _DropoutNd
from torch.profiler import ProfilerActivity, profile

_WARM_UP = 2

Step = Callable[[], object]


def training_step(model: BaseModel, optim_wrapper: dict, batch: dict) -> Step:
    """Give a model's training step, optimizer included.

    Args:
        model (BaseModel): The model.
        optim_wrapper (dict): Config of the optimizer.
        batch (dict): As :func:`benchmark.variants.make_batch` gives it.

    Returns:
        Callable: Takes a step.
    """
    optimizer = build_optim_wrapper(model, optim_wrapper)
    return lambda: model.train_step(copy.deepcopy(batch), optimizer)


@torch.no_grad()
def distillation_loss(model: BaseModel, batch: dict) -> float:
    """Compute what a model's distillation adds to the loss, to see that all do the same.

    Without dropout, which MMRazor leaves on in its teacher.

    Args:
        model (BaseModel): The model.
        batch (dict): As :func:`benchmark.variants.make_batch` gives it.

    Returns:
        float: The sum of its distillation losses, 0 for a plain student.
    """
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    losses = model(**data, mode='loss')
    model.train()
    return float(sum(loss for name, loss in losses.items() if name.startswith('distill.')))


def measure_time(steps: Mapping[str, Step], rounds: int, device: str,
                 what: str) -> dict[str, list[float]]:
    """Time each step once a round, so that a noisy machine hits all alike.

    The order within a round is drawn: what ran before leaves traces in caches and allocator.

    Args:
        steps (Mapping[str, Callable]): What to run, by name.
        rounds (int): Number of rounds that count.
        device (str): Where they run.
        what (str): What the progress bar says.

    Returns:
        dict[str, list[float]]: Seconds of each round.
    """
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in track(range(_WARM_UP + rounds), what, transient=True):
        for name in order.sample(list(steps), len(steps)):
            _synchronize(device)
            start = time.perf_counter()
            steps[name]()
            _synchronize(device)
            if number >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_memory(build: Callable[[], BaseModel], optim_wrapper: dict, batch: dict,
                   device: str) -> int:
    """Measure the most memory that a training holds at a time.

    Args:
        build (Callable): Builds the model.
        optim_wrapper (dict): Config of the optimizer.
        batch (dict): As :func:`benchmark.variants.make_batch` gives it.
        device (str): Where it runs.

    Returns:
        int: Bytes that torch allocated at the peak of building and of three steps, over what was
        allocated before; on the CPU without the scratch memory of oneDNN.
    """

    def train() -> None:
        step = training_step(build(), optim_wrapper, batch)
        for _ in range(3):
            step()

    if device.startswith('cuda'):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        train()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler tells of each start
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train()
    events = [event for event in profiler.profiler.kineto_results.events()
              if event.name() == '[memory]']
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def checkpoint_size(model: BaseModel, optim_wrapper: dict, batch: dict) -> int:
    """Measure the checkpoint of a training, as the Runner saves it, without its logs.

    Args:
        model (BaseModel): The model.
        optim_wrapper (dict): Config of the optimizer.
        batch (dict): A batch to take one step with, which gives the optimizer its state.

    Returns:
        int: Bytes.
    """
    optimizer = build_optim_wrapper(model, optim_wrapper)
    model.train_step(copy.deepcopy(batch), optimizer)
    file = io.BytesIO()
    torch.save(dict(state_dict=get_state_dict(model), optimizer=optimizer.state_dict()), file)
    return file.tell()


def describe_machine(device: str) -> str:
    """Name the GPU, or the CPU and the number of its cores."""
    if 'cuda' in device:
        return torch.cuda.get_device_name(device)
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores'


def _synchronize(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()
