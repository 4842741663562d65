"""Pictures of what the teacher teaches, during training."""
from collections.abc import Sequence
from typing import Any

import mmcv
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..distillers import AvatarDistiller
from ..losses import UncertaintyFeatureLoss
from ..utils.errors import ConfigError, ConfigProblems
from ..utils.rng import preserve_rng
from ..visualization import draw_avatar_panel, draw_prediction, read_avatar_maps
from .runner import is_training, unwrapped_model
from .task_names import check_task_names, task_names


@HOOKS.register_module()
class AvatarVisualizationHook(Hook):
    """Draws what each task with Avatars teaches on a few validation images.

    Before training, every ``interval`` iterations and at the end, the main process adds one
    picture for each task, level and image to the Runner's visualizer:
    :func:`mmakd.visualization.draw_avatar_panel`. With MMEngine's local backend they are
    ``vis_data/vis_image/avatars_<task>.<level>_<image>_<iteration>.png``. In a resumed training
    the student's map at the start is that of the checkpoint. The student is the same bit for bit.

    Args:
        interval (int): Iterations from one picture to the next. Defaults to 5000.
        images (Sequence[int]): Indices of images of the validation set. Defaults to (0, ).
        tasks (Sequence[str], optional): Names of the tasks. Defaults to None, all with Avatars.
        levels (Sequence[int]): Indices of the compared maps; those that a task does not have are
            left out. Defaults to (0, ).
    """

    priority = 'LOW'

    def __init__(self, interval: int = 5000, images: Sequence[int] = (0, ),
                 tasks: Sequence[str] | None = None, levels: Sequence[int] = (0, )) -> None:
        problems = ConfigProblems()
        if type(interval) is not int or interval < 1:
            problems.add(f'interval={interval!r}: must be an integer >= 1')
        for key, values in ('images', images), ('levels', levels):
            if not isinstance(values, (list, tuple)) or not values or any(
                    type(value) is not int or value < 0 for value in values):
                problems.add(f'{key}={values!r}: must be a list of integers >= 0, e.g. [0]')
        with problems.under(''):
            check_task_names(tasks)
        problems.raise_if_any()
        self.interval = interval
        self.images = images
        self.tasks = tasks
        self.levels = levels
        self._starts: dict[tuple[str, int, int], Tensor] = {}

    def before_run(self, runner: Runner) -> None:
        """Check the hook against model and data.

        Raises:
            ConfigError: With all problems at once, if no task has Avatars, one that is named has
                none, or there is no such image.
        """
        if not is_training(runner):
            return
        key = type(self).__name__
        problems = ConfigProblems()
        model: Any = unwrapped_model(runner)
        if not isinstance(model, AvatarDistiller):
            problems.add(f'{key}: the model has no distillation tasks; remove the hook or train '
                         "model=dict(type='AvatarDistiller', ...)")
        else:
            with problems.under(key):
                names = self._task_names(model)
                if not names:
                    raise ConfigError(': no task has Avatars; remove the hook, or set loss.type='
                                      "'UncertaintyFeatureLoss' with a perturbation")
        if runner.val_loop is None:
            problems.add(f'{key}: the config has no validation data; remove the hook or give '
                         'val_cfg, val_dataloader and val_evaluator')
        elif max(self.images) >= len(runner.val_dataloader.dataset):
            problems.add(f'{key}.images={self.images!r}: the validation set has '
                         f'{len(runner.val_dataloader.dataset)} images; name smaller indices')
        problems.raise_if_any()

    def before_train(self, runner: Runner) -> None:
        """Draw the start."""
        self._draw(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Draw every ``interval`` iterations, and behind the last one."""
        iteration = runner.iter + 1
        if iteration % self.interval == 0 or iteration == runner.max_iters:
            self._draw(runner, iteration)

    def _task_names(self, model: Any) -> list[str]:
        with_avatars = [name for name, task in model.distiller.items()
                        if isinstance(task.losses[0], UncertaintyFeatureLoss)
                        and task.losses[0].perturbation is not None]
        task_names(self.tasks, model.distiller)
        return task_names(self.tasks, with_avatars)

    def _draw(self, runner: Runner, iteration: int = 0) -> None:
        if not is_main_process():
            return
        model: Any = unwrapped_model(runner)
        dataset = runner.val_dataloader.dataset
        training = model.training
        model.eval()
        with preserve_rng():
            for index in self.images:
                data = pseudo_collate([dataset[index]])
                image = mmcv.imread(dataset.get_data_info(index)['img_path'],
                                    channel_order='rgb')
                sample = model.student.test_step(pseudo_collate([dataset[index]]))[0]
                prediction = draw_prediction(runner.visualizer, image, sample, dataset.metainfo)
                for name in self._task_names(model):
                    for level in self.levels:
                        if level >= len(model.distiller[name].losses):
                            continue
                        maps = read_avatar_maps(model, dict(data), name, level)
                        start = self._starts.setdefault((name, level, index), maps.student)
                        runner.visualizer.add_image(
                            f'avatars_{name}.{level}_{index}',
                            draw_avatar_panel(maps, image, prediction, start,
                                              f'Task {name}, level {level}, iteration {iteration}',
                                              dataset.metainfo.get('classes', ())),
                            step=iteration)
        model.train(training)
