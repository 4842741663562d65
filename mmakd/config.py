"""Building registered components from configs, with errors in terms of config keys."""
import difflib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.registry import MODELS

_MOST_SHOWN = 12

class ConfigError(ValueError):
    """A config that cannot be run.

    Every problem is one line ``key=value: what is wrong; what to do``, its key written from the
    place where the error was noticed; each level above puts its own key in front. A problem of
    the very value there begins with ``=`` or ``:``.

    Args:
        problems (str | list[str]): One or several problems.
    """

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
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
            key (str): The config key that the block handles.
        """
        try:
            yield
        except ConfigError as error:
            self.problems += [f'{key}{problem}' if problem[0] in '=:' else f'{key}.{problem}'
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


def check_positive(key: str, value: Any) -> None:
    """Check a number of the config.

    Args:
        key (str): Its key.
        value (Any): Its value.

    Raises:
        ConfigError: If it is no number above 0.
    """
    if not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f'{key}={value!r}: must be a number > 0, e.g. 1.0')


def build(cfg: Any, offer: dict[str, Any] | None = None, **defaults: Any) -> Any:
    """Build a component of the ``MODELS`` registry.

    Like ``MODELS.build``, but an unknown type or argument is reported as a config key with the
    nearest valid name.

    Args:
        cfg (dict): Config with the key ``type``.
        offer (dict, optional): Arguments used where ``cfg`` does not give them and the type has
            them by name. Defaults to None.
        **defaults: Arguments used where ``cfg`` does not give them.

    Returns:
        Any: The component.

    Raises:
        ConfigError: If ``cfg`` is no dict with a ``type``, the type is not registered, or its
            arguments are wrong.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'={cfg!r}: expected dict(type=...)')
    if 'type' not in cfg:
        raise ConfigError(f'type: missing in {dict(cfg)!r}; name a registered class')
    name = cfg['type']
    scope = cfg.get('_scope_')
    if scope is None and isinstance(name, str) and name.count('.') == 1:
        scope = name.split('.')[0]
    with MODELS.switch_scope_and_registry(scope) as registry:
        cls = registry.get(name) if isinstance(name, str) else name
        if cls is None:
            known = set(registry.module_dict) | set(MODELS.module_dict)
            raise ConfigError(f'type={name!r}: not registered; '
                              f'{suggest(str(name).split(".")[-1], known)}')
        parameters = inspect.signature(cls).parameters
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            unknown = set(cfg) - set(parameters) - {'type', '_scope_'}
            if unknown:
                raise ConfigError([
                    f'{key}={cfg[key]!r}: {name} has no such argument; {suggest(key, parameters)}'
                    for key in sorted(unknown)])
        try:
            taken = {key: value for key, value in (offer or {}).items() if key in parameters}
            return registry.build({**taken, **defaults, **cfg})
        except ConfigError:
            raise
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'type={name!r}: {error}') from error
