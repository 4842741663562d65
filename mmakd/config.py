"""Building registered components from configs, with errors in terms of config keys."""
import difflib
import inspect
import math
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmengine.registry import MODELS, Registry

_MOST_SHOWN = 12
_MOST_LETTERS = 60

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


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tell whether a value of the config is a finite number.

    Args:
        value (Any): The value.

    Returns:
        bool: False for NaN, infinity, and True and False.
    """
    return _is_real(value) and math.isfinite(value)


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


def find_type(cfg: Any, registry: Registry = MODELS) -> Any:
    """Find what the ``type`` of a component's config stands for.

    Args:
        cfg (dict): Config with the key ``type``.
        registry (Registry): Where it is registered. Defaults to ``MODELS``.

    Returns:
        Any: The class or function.

    Raises:
        ConfigError: If ``cfg`` is no dict with a ``type``, or the type is not registered.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'={cfg!r}: expected dict(type=...)')
    if 'type' not in cfg:
        raise ConfigError(f'type: missing in {_brief(dict(cfg))}; name a registered class')
    name = cfg['type']
    with registry.switch_scope_and_registry(_scope(cfg)) as scoped:
        found = scoped.get(name) if isinstance(name, str) else name
        if found is None:
            known = set(scoped.module_dict) | set(registry.module_dict)
            raise ConfigError(f'type={name!r}: not registered; '
                              f'{suggest(str(name).split(".")[-1], known)}')
    if not callable(found):
        raise ConfigError(f'type={name!r}: expected the name of a registered class')
    return found


def known_arguments(found: Any) -> set[str] | None:
    """List the arguments that a class or function takes by name.

    Args:
        found (Any): The class or function. Where a class takes ``**kwargs``, the arguments of
            the next class in its method resolution order count too.

    Returns:
        set[str] | None: Their names; None where any name is taken.
    """
    known: set[str] = set()
    for function in _initializers(found):
        parameters = inspect.signature(function).parameters.values()
        known.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD,
                                                              p.KEYWORD_ONLY))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return known - {'self'}
    return None


def unknown_arguments(cfg: dict, found: Any, given: Collection[str] = ()) -> list[str]:
    """Check the keys of a component's config.

    Args:
        cfg (dict): Config with the key ``type``.
        found (Any): What its type stands for.
        given (Collection[str]): Arguments that no config gives. Defaults to ().

    Returns:
        list[str]: A problem for each key that is no argument.
    """
    known = known_arguments(found)
    if known is None:
        return []
    valid = {'type', *known}.difference(given)
    return [f'{key}={_brief(cfg[key])}: {cfg["type"]} has no such argument; {suggest(key, valid)}'
            for key in sorted(set(cfg) - known - {'type', '_scope_'})]


def wrong_types(cfg: dict, found: Any) -> list[str]:
    """Check the values of a component's config against the annotations of its arguments.

    Args:
        cfg (dict): Its arguments.
        found (Any): The class or function that takes them.

    Returns:
        list[str]: A problem for each value of another type; a default is never one.
    """
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for function in _initializers(found):
        parameters = inspect.signature(function).parameters
        try:
            named = get_type_hints(function)
        except (NameError, TypeError):
            named = {}  # names that are known to type checkers only
        hints = {**named, **hints}
        defaults = {**{name: p.default for name, p in parameters.items()}, **defaults}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return [f'{key}={_brief(cfg[key])}: must be {_say_type(hints[key])}'
            for key in sorted(set(cfg) & set(hints) & set(defaults))
            if cfg[key] is not defaults[key] and not _fits(cfg[key], hints[key])]


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type, as far as that can be told."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if hint is float:
        return _is_real(value) and value == value
    if hint is int:
        return _is_real(value) and value == value // 1
    if origin in _SEQUENCES:
        # A config has lists for tuples, and the other way round.
        return isinstance(value, (list, tuple)) and all(
            not parts or any(_fits(item, part) for part in parts if part is not ...)
            for item in value)
    if origin is None and inspect.isclass(hint):
        # Or a dict of which it is to be built.
        return isinstance(value, hint) or (
            hint not in _PLAIN and isinstance(value, dict) and 'type' in value)
    return True


_SEQUENCES = (list, tuple, Sequence)
_PLAIN = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a text',
          dict: 'a dict', list: 'a list', tuple: 'a list', type(None): 'None'}


def _say_type(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return ' or '.join(dict.fromkeys(map(_say_type, get_args(hint))))
    if get_origin(hint) in _SEQUENCES:
        items = dict.fromkeys(_say_type(part) for part in get_args(hint) if part is not ...)
        return f'a list, each item {" or ".join(items)}' if items else 'a list'
    return _PLAIN.get(hint, f'a {getattr(hint, "__name__", hint)}')


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_LETTERS else f'{text[:_MOST_LETTERS - 3]}...'


def _scope(cfg: dict) -> str | None:
    scope, name = cfg.get('_scope_'), cfg['type']
    if scope is None and isinstance(name, str) and name.count('.') == 1:
        return name.split('.')[0]
    return scope


def _initializers(found: Any) -> list[Callable]:
    if not inspect.isclass(found):
        return [found]
    return [vars(base)['__init__'] for base in found.__mro__ if '__init__' in vars(base)]


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
    found = find_type(cfg)
    problems = unknown_arguments(cfg, found)
    if problems:
        raise ConfigError(problems)
    named = inspect.signature(found).parameters
    taken = {key: value for key, value in (offer or {}).items() if key in named}
    with MODELS.switch_scope_and_registry(_scope(cfg)) as registry:
        try:
            component = registry.build({**taken, **defaults, **cfg})
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(wrong_types(cfg, found)
                              or f'type={cfg["type"]!r}: {error}') from error
    problems = wrong_types(cfg, found)
    if problems:
        raise ConfigError(problems)
    return component
