"""Building the model, and what can be built of one that is wrong."""
from __future__ import annotations

import copy
import re
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ..distillers import AvatarDistiller
from ..distillers.assembly import build_network
from ..distillers.distill_task import task_taps
from ..distillers.taps import check_tap
from ..utils.build import build, find_type, known_arguments
from ..utils.config_file import describe
from ..utils.errors import ConfigError
from ..utils.references import resolve_model
from .complexity import measure_network
from .components import check_component, explain, wrong_parts
from .findings import Findings
from .top_level import nearest_key

_SIDES = ('student', 'teacher')


@dataclass
class BuiltModel:
    """What could be built of a config's model.

    Attributes:
        model (nn.Module, optional): The model; of a distiller that is partly wrong, what is left
            without its wrong tasks and options.
        networks (dict[str, nn.Module]): A distiller's ``'student'`` and ``'teacher'``, or the
            plain ``'model'`` and its teacher if it has one, without those that cannot be built.
        is_whole (bool): Whether nothing is left out. Defaults to True.
    """

    model: nn.Module | None
    networks: dict[str, nn.Module]
    is_whole: bool = True


def build_model(cfg: Config, findings: Findings) -> BuiltModel:
    """Build the model as the Runner does.

    Args:
        cfg (Config): The config.
        findings (Findings): Takes what is wrong.

    Returns:
        BuiltModel: As much as can be built.
    """
    wanted = copy.deepcopy(cfg.get('model'))
    with findings.attempt('model'):
        if wanted and find_type(wanted) is AvatarDistiller:
            return _build_distiller(_with_preprocessor(wanted, cfg), findings)
        if wanted:
            model = _build_plain(_with_preprocessor(wanted, cfg), findings)
            networks = dict(model=model, teacher=getattr(model, 'teacher', None))
            return BuiltModel(model, {side: network for side, network in networks.items()
                                      if network is not None})
    return BuiltModel(None, {})


def _with_preprocessor(model: dict, cfg: Config) -> dict:
    """Add the top level's ``data_preprocessor`` as the Runner does."""
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def _build_plain(cfg: dict, findings: Findings) -> nn.Module | None:
    if check_component(cfg, 'model', MODELS, findings) is None:
        return None
    try:
        return MODELS.build(cfg)
    except Exception as error:
        if isinstance(error, ConfigError):
            findings.problems += wrong_parts(cfg, 'model') or error.problems
        else:
            findings.problems += explain(cfg, 'model', MODELS, error)
        return None


def _build_distiller(cfg: dict, findings: Findings) -> BuiltModel:
    check_component(cfg, 'model', MODELS, findings)
    cfg = _corrected(cfg)
    if 'student' in cfg and 'teacher' in cfg:
        problems: list[str] = []
        model = _try(cfg, problems)
        is_whole = model is not None
        if model is None:
            problems = _more_exactly(cfg, problems)
            findings.problems += problems
            rest = _without_wrong_parts(cfg, problems)
            model = _try(rest, []) if rest else None
        if model is not None:
            return BuiltModel(model, dict(student=model.student, teacher=model.teacher), is_whole)
    networks = {}
    for side in _SIDES:
        # What is wrong with them is noted already.
        with Findings().attempt(side):
            networks[side] = build_network(cfg[side])
    if len(networks) == 1 and isinstance(cfg['distill'], dict):
        _check_one_side(cfg['distill'], networks, findings)
    return BuiltModel(networks.get('student'), networks, is_whole=False)


def _check_one_side(distill: dict, networks: dict[str, nn.Module], findings: Findings) -> None:
    """Check the tasks as far as that is possible where one network is missing."""
    (side, network), = networks.items()
    for name, task in distill.items():
        with findings.attempt(f'model.distill.{name}'):
            taps = task_taps(task)
            tap = taps[_SIDES.index(side)]
            check_tap(network, 'tap' if 'tap' in task else f'{side}_tap', tap, side)
        with findings.attempt(f'model.distill.{name}.loss'):
            if isinstance(task, dict) and 'loss' in task:
                build(task['loss'], offer=dict(channels=1))


def _corrected(cfg: dict) -> dict:
    """Correct misspelt arguments and leave out unknown ones, to go on with the rest."""
    valid = {'type', *(known_arguments(AvatarDistiller) or ())}
    corrected = {key: value for key, value in cfg.items() if key in valid}
    for key in set(cfg) - valid:
        right = nearest_key(key, valid)
        if right:
            corrected.setdefault(right, cfg[key])
    corrected.setdefault('distill', {})
    return corrected


def _try(cfg: dict, problems: list[str]) -> AvatarDistiller | None:
    try:
        return MODELS.build(copy.deepcopy(cfg))
    except ConfigError as error:
        problems += error.problems
    except Exception as error:
        problems.append(f'model: {describe(error)}')
    return None


def _more_exactly(cfg: dict, problems: list[str]) -> list[str]:
    """Say which part of a network cannot be built or run, where that is why the model cannot."""
    exact: list[str] = []
    # A reference that is not found is noted for the network and for its published weights.
    problems = [problem for problem in problems if not (problem.startswith('model=') and any(
        other != problem and other.endswith(problem.removeprefix('model'))
        for other in problems))]
    for side in _SIDES:
        key = f'model.{side}'
        about = [problem for problem in problems if re.match(rf'{key}\b|model:', problem)]
        if not about:
            continue
        found = Findings()
        with found.attempt(key):
            network = _build_network(cfg[side], key, found)
            if network is not None:
                _try_forward(network)
        if found.problems:
            problems = [problem for problem in problems if problem not in about]
            exact += found.problems
    return exact + problems


def _build_network(cfg: str | dict, key: str, findings: Findings) -> nn.Module | None:
    resolved = resolve_model(cfg)
    try:
        return build_network(resolved)
    except Exception as error:
        original = error.__cause__ if isinstance(error.__cause__, Exception) else error
        findings.problems += explain(resolved, key, MODELS, original)
        return None


def _try_forward(network: nn.Module) -> None:
    entered = ['']
    for name, module in network.named_modules():
        module.register_forward_pre_hook(lambda *args, name=name: entered.append(name))
    try:
        measure_network(network)
    except Exception as error:
        raise ConfigError(f': fails on a small image in {entered[-1] or "its forward method"!r}: '
                          f'{describe(error)}') from error


def _without_wrong_parts(cfg: dict, problems: list[str]) -> dict | None:
    """Leave out the tasks and options that have problems; None where nothing is left to build."""
    rest = copy.deepcopy(cfg)
    for problem in problems:
        place = re.match(r'model\.(\w+)(?:\.(\w+))?', problem)
        if place is None or place[1] in _SIDES:
            return None
        if place[1] == 'distill' and isinstance(rest['distill'], dict):
            rest['distill'].pop(place[2], None)
        elif place[1] == 'teacher_ckpt':
            rest['teacher_ckpt'] = None
        else:
            rest.pop(place[1], None)
    return rest if rest.get('distill') else None
