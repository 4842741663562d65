"""Config errors: one line a problem, all of them at once."""
import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_MOST_SHOWN = 12


class ConfigError(ValueError):
    """A config that cannot be run.

    Every problem is one line ``key=value: what is wrong; what to do``, its key written from the
    place where the error was noticed; each level above puts its own key in front. A problem of
    the very value there begins with ``=`` or ``:``.

    Args:
        problems (str | list[str]): One or several problems.
        on_all_ranks (bool): Whether all processes of a distributed training raise it, so that one
            on each machine prints it. Defaults to False.
    """

    def __init__(self, problems: str | list[str], on_all_ranks: bool = False) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.on_all_ranks = on_all_ranks
        if len(self.problems) == 1:
            message = self.problems[0]
        else:
            lines = (f'  {i}. {problem}' for i, problem in enumerate(self.problems, 1))
            message = '\n'.join([f'{len(self.problems)} problems in the config:', *lines])
        super().__init__(message)


class ConfigProblems:
    """Collects the problems of several keys, so that the user sees them all at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def add(self, problem: str) -> None:
        """Note one problem.

        Args:
            problem (str): ``key=value: what is wrong; what to do``.
        """
        self.problems.append(problem)

    @contextmanager
    def under(self, key: str) -> Iterator[None]:
        """Note a :class:`ConfigError` raised in the block under ``key`` and go on behind it.

        Args:
            key (str): The config key that the block handles; empty where the errors name all.
        """
        try:
            yield
        except ConfigError as error:
            self.problems += [
                f'{key}{problem}' if problem[0] in '=:' or not key else f'{key}.{problem}'
                for problem in error.problems]

    def raise_if_any(self) -> None:
        """Raise what was collected.

        Raises:
            ConfigError: If there is any problem.
        """
        if self.problems:
            raise ConfigError(self.problems)


def suggest(name: Any, valid: Iterable[str]) -> str:
    """Say which valid names come nearest to a wrong one.

    Args:
        name (Any): The wrong name.
        valid (Iterable[str]): The names that would be right.

    Returns:
        str: ``did you mean 'a' or 'b'?``, or the valid names where none is near and they are few.
    """
    valid = sorted(set(valid))
    near = difflib.get_close_matches(str(name), valid, n=3)
    if near:
        return f'did you mean {" or ".join(map(repr, near))}?'
    if len(valid) > _MOST_SHOWN:
        return 'no valid name is near it'
    return f'valid: {", ".join(map(repr, valid))}'


def is_real(value: Any) -> bool:
    """Tell whether a value of the config is a number, NaN and infinity included."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tell whether a value of the config is a finite number.

    Args:
        value (Any): The value.

    Returns:
        bool: False for NaN, infinity, and True and False.
    """
    return is_real(value) and math.isfinite(value)


def check_numbers(positive: dict[str, Any] | None = None,
                  not_negative: dict[str, Any] | None = None) -> None:
    """Check numbers of the config.

    Args:
        positive (dict[str, Any], optional): Values by key that are above 0. Defaults to None.
        not_negative (dict[str, Any], optional): Values by key that are 0 or above, such as
            weights of losses. Defaults to None.

    Raises:
        ConfigError: With all problems at once, if one is no finite number, or too small.
    """
    problems = [f'{key}={value!r}: must be a number > 0, e.g. 1.0'
                for key, value in (positive or {}).items()
                if not is_number(value) or not value > 0]
    problems += [f'{key}={value!r}: must be a number >= 0, e.g. 1.0'
                 for key, value in (not_negative or {}).items()
                 if not is_number(value) or value < 0]
    if problems:
        raise ConfigError(problems)
