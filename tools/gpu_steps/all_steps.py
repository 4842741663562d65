"""The steps in their order, the short ones first."""
from functools import partial

from gpu_steps.agreement import check_agreement, check_avatars
from gpu_steps.environment import check_environment
from gpu_steps.memory import check_memory
from gpu_steps.processes import check_processes
from gpu_steps.speed import check_profile, check_speed
from gpu_steps.step import Step
from gpu_steps.trainings import (
    VARIANTS,
    check_resume,
    train_on_cpu,
    train_teacher,
    train_variant,
)

_TASKS = 'seg', 'det'  # segmentation needs no ops of mmcv


def _of_task(task: str) -> list[Step]:
    needs_ops = task == 'det'
    return [
        Step(f'{task}-speed', partial(check_speed, task=task), needs_ops),
        Step(f'{task}-profile', partial(check_profile, task=task), needs_ops),
        Step(f'{task}-memory', partial(check_memory, task=task), needs_ops),
        Step(f'{task}-processes', partial(check_processes, task=task), needs_ops),
        Step(f'{task}-teacher', partial(train_teacher, task=task), needs_ops),
        Step(f'{task}-resume', partial(check_resume, task=task), needs_ops),
        Step(f'{task}-cpu', partial(train_on_cpu, task=task), hides_gpu=True),
        *(Step(f'{task}-{variant}', partial(train_variant, task=task, variant=variant), needs_ops)
          for variant in VARIANTS)]


STEPS = {step.name: step for step in [
    Step('environment', check_environment), Step('avatars', check_avatars),
    *(Step(f'{task}-agreement', partial(check_agreement, task=task)) for task in _TASKS),
    *_of_task('seg'), *_of_task('det')]}
