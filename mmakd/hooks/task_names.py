"""The argument ``tasks`` of hooks: names of distillation tasks, or None for all."""
from collections.abc import Iterable
from typing import Any

from ..utils.errors import ConfigError, suggest


def check_task_names(tasks: Any) -> None:
    """Check that the argument is None or a list of names; else raise a :class:`ConfigError`."""
    if tasks is not None and (not isinstance(tasks, (list, tuple)) or not tasks or
                              not all(isinstance(name, str) for name in tasks)):
        raise ConfigError(f"tasks={tasks!r}: must be None (all tasks) or a list of names, e.g. "
                          "['fpn']")


def task_names(tasks: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """List the names that the argument means.

    Raises:
        ConfigError: With all of them, if names are not ``known``, the model's tasks.
    """
    known = list(known)
    names = known if tasks is None else list(tasks)
    problems = [f'tasks={tasks!r}: the model has no task {name!r}; {suggest(name, known)}'
                for name in names if name not in known]
    if problems:
        raise ConfigError(problems)
    return names
