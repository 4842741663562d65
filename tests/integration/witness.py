"""What no log says about a training."""
import json
import multiprocessing
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch._dynamo.utils import counters


@HOOKS.register_module()
class Witness(Hook):
    """Writes down in each iteration how a rank trains, into ``rank<rank>.jsonl``."""

    priority = 'LOWEST'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        facts = dict(
            world_size=get_world_size(),
            workers=len(multiprocessing.active_children()),
            is_compiled=counters['stats']['unique_graphs'] > 0,
            optim_wrapper=type(runner.optim_wrapper).__name__,
            digest=sum(value.double().sum().item() for value in runner.model.parameters()))
        with open(f'{runner.work_dir}/rank{get_rank()}.jsonl', 'a') as file:
            file.write(f'{json.dumps(facts)}\n')
