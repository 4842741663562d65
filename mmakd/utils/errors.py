"""Config errors: one line per problem, reported together."""
import difflib
import inspect
import math
import operator
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import registry as registries
from mmengine.registry import Registry

_MOST_SHOWN = 12


class ConfigError(ValueError):
    """A config that cannot be run.

    Every problem is one line ``key=value: what is wrong; what to do``. The key is relative to the
    place where the error is found; each level above adds its own key in front. A problem of the
    value itself begins with ``=`` or ``:``.

    Args:
        problems (str | list[str]): One or several problems.
        on_all_ranks (bool): Whether all processes of a distributed training raise it, so that one
            on each machine prints it. Defaults to False.
    """

    def __init__(self, problems: str | list[str], on_all_ranks: bool = False) -> None:
        problems = [problems] if isinstance(problems, str) else problems
        self.problems = list(dict.fromkeys(problems))  # one may be found in two ways
        self.on_all_ranks = on_all_ranks
        number = len(self.problems)
        super().__init__(self.problems[0] if number == 1 else
                         f'{number} problems in the config:\n{numbered(self.problems)}')


class ConfigProblems:
    """Collects the problems of several keys, to report them together.

    Attributes:
        problems (list[str]): One line each: ``key=value: what is wrong; what to do``.
        warnings (list[str]): Suspicious settings that can be run, likewise.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def add(self, problem: str) -> None:
        """Add a problem."""
        self.problems.append(problem)

    def warn(self, warning: str) -> None:
        """Add a warning."""
        self.warnings.append(warning)

    @contextmanager
    def under(self, key: str) -> Iterator[None]:
        """Add a :class:`ConfigError` of the block under ``key``, and continue after the block.

        ``key`` is empty if the errors name the whole key.
        """
        try:
            yield
        except ConfigError as error:
            self.problems += [
                f'{key}{problem}' if problem[0] in '=:' or not key else f'{key}.{problem}'
                for problem in error.problems]

    @contextmanager
    def attempt(self, key: str) -> Iterator[None]:
        """Add any error of the block under ``key``, and continue after the block."""
        with self.under(key):
            try:
                yield
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f': {describe(error)}') from error

    def raise_if_any(self) -> None:
        """Raise a :class:`ConfigError` if there is any problem."""
        if self.problems:
            raise ConfigError(self.problems)


def describe(error: BaseException) -> str:
    """Describe an error of another package in one line: its class and its message.

    For an unknown type or argument the nearest valid name is added.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [' '.join(line.split()) for line in text.strip().splitlines()]
    if lines and 'in DataLoader worker process' in lines[0]:
        words = lines[-1]  # the original error, after its traceback
    else:
        # The registry's hints on custom imports are left out.
        words = ': '.join([type(error).__name__, *lines[:1]]).split('. Please check whether')[0]
    wrong = re.search(r"(\w+) is not in the [\w: ]+ registry"
                      r"|(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", words)
    if not wrong:
        return words
    roots = [value for value in vars(registries).values() if isinstance(value, Registry)]
    known = {name: found for root in roots for scoped in (root, *root.children.values())
             for name, found in scoped.module_dict.items()}
    found = known.get(wrong[2])
    hint = suggest(wrong[1] or wrong[3], inspect.signature(found).parameters if found else known)
    return f'{words}; {hint}' if hint.startswith('did') else words


def numbered(lines: Iterable[str]) -> str:
    """Number problems for a message; one of several lines is indented as a whole."""
    return '\n'.join(f'  {i}. ' + line.replace('\n', '\n     ')
                     for i, line in enumerate(lines, 1))


def suggest(name: Any, valid: Iterable[str]) -> str:
    """Return ``did you mean 'a' or 'b'?``, or all valid names if none is near and few exist."""
    valid = sorted(set(valid))
    near = difflib.get_close_matches(str(name), valid, n=3)
    if near:
        return f'did you mean {" or ".join(map(repr, near))}?'
    if len(valid) > _MOST_SHOWN:
        return 'no valid name is near it'
    return f'valid: {", ".join(map(repr, valid))}'


def is_number(value: Any) -> bool:
    """Tell whether a value of the config is a finite number; True and False are not."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))


def check_numbers(positive: dict[str, Any] | None = None,
                  not_negative: dict[str, Any] | None = None) -> None:
    """Check numbers of the config, given by key.

    Raises:
        ConfigError: With all problems at once, if a value is not a finite number, or too small.
    """
    problems = [f'{key}={value!r}: must be a number {sign} 0, e.g. 1.0'
                for sign, is_right, values in (('>', operator.gt, positive),
                                               ('>=', operator.ge, not_negative))
                for key, value in (values or {}).items()
                if not is_number(value) or not is_right(value, 0)]
    if problems:
        raise ConfigError(problems)
