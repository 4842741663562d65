"""Configs with one mistake each, drawn from a seed."""
from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

Place = tuple[Any, ...]
# What a value becomes by mistake.
STRANGE = ['four', [], ['a', 1], dict(a=1), None, -1, 0.5, True, float('nan'), 10**6]
# Parts of a config and how often they are hit.
PARTS = {('model', 'distill'): 5, ('default_hooks', 'perturbation'): 3, ('model', ): 3,
         ('optim_wrapper', ): 1, ('param_scheduler', ): 1, ('train_dataloader', ): 1,
         ('train_cfg', ): 1,
         ('val_evaluator', ): 1, ('default_hooks', ): 1, (): 1}
# Variables of the user, where files go, what a training does not read; and the names of metrics,
# which mmseg looks at when it evaluates, behind the first epoch.
LEFT_OUT = {'iou_metrics',
            'metainfo', 'palette', 'classes', 'image_size', 'data_root', 'work_dir', 'launcher',
            'experiment_name', 'test_cfg', 'test_dataloader', 'test_evaluator', 'visualizer',
            'auto_scale_lr', 'dataset', 'meta_keys'}
WEIGHTS = ['loss_weight', 'tau', 'drop_rate', 'momentum', 'start', 'end', 'num_avatars', 'temp',
           'alpha_fgd', 'alpha_mgd', 'dice_weight', 'num_tokens', 'warmup', 'eps']
OUR_HOOKS = [('default_hooks', 'perturbation'), ('default_hooks', 'distillation_schedule')]
OTHER_KINDS = ['FeatureMSELoss', 'RetinaNet', 'DropoutPerturbation', 'AvatarVariance',
               'PerturbationHook', 'AdamW', 'CocoDataset', 'ConvAdapter', 'AvatarDistiller']


@dataclass
class Mutant:
    """A config with a mistake.

    Attributes:
        what (str): The mistake in words.
        names (set[str]): One of these has to be in the message.
        is_mistake (bool): Whether it may not train; leaving out what has a default may.
        cfg (Config): The config.
    """

    what: str
    names: set[str]
    is_mistake: bool
    cfg: Config


def make_mutants(configs: list[Config], number: int, seed: int) -> Iterator[Mutant]:
    """Draw mutants.

    Args:
        configs (list[Config]): What they are made of, in turn.
        number (int): How many.
        seed (int): Seed of the draw.

    Yields:
        Mutant: One after the other, no mistake twice.
    """
    draw = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < number:
        cfg = copy.deepcopy(configs[len(seen) % len(configs)])
        change = draw.choices(list(CHANGES), CHANGES.values())[0]
        mutant = change(cfg, draw)
        if mutant is not None and mutant.what not in seen:
            seen.add(mutant.what)
            yield mutant


def _places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for name, child in children:
        if name in LEFT_OUT or str(name).startswith('_'):
            continue
        yield (*place, name), child
        if isinstance(child, (dict, list, tuple)):
            yield from _places(child, (*place, name))


def _draw_place(cfg: Config, draw: random.Random,
                wanted: Callable[[Place, Any], bool] = lambda place, value: True
                ) -> tuple[Any, Any] | None:
    """Draw a key: what holds it, and the whole place."""
    part = draw.choices(list(PARTS), PARTS.values())[0]
    places = [(place, value) for place, value in _places(dict(cfg.items()))
              if place[:len(part)] == part and len(place) > len(part) and wanted(place, value)
              and (part or len(place) == 1)]
    if not places:
        return None
    place, _ = draw.choice(places)
    holder: Any = cfg
    for name in place[:-1]:
        holder = holder[name]
    return (holder, place) if isinstance(holder, (dict, list)) else None


def _key(place: Place) -> str:
    return '.'.join(map(str, place))


def _names(place: Place) -> set[str]:
    """The last name of a place (an index says nothing alone), and the part's if it is not ours."""
    name = str(next(name for name in reversed(place) if isinstance(name, str)))
    is_ours = ((place[0] == 'model' and not {'student', 'teacher'} & set(place))
               or place[:2] in OUR_HOOKS)
    return {name} if is_ours else {name, str(place[0])}


def _misspell(word: str, draw: random.Random) -> str:
    at = draw.randrange(len(word))
    return draw.choice([word[:at] + word[at + 1:], word[:at] + 2 * word[at] + word[at + 1:],
                        word[:at] + 'x' + word[at + 1:]]) or 'x'


def remove(cfg: Config, draw: random.Random) -> Mutant | None:
    found = _draw_place(cfg, draw, lambda place, value: isinstance(place[-1], str))
    if found is None:
        return None
    holder, place = found
    del holder[place[-1]]
    # Of what has to have parts, the message names the whole.
    return Mutant(f'{_key(place)} removed', {*_names(place), str(place[-2:][0])}, False, cfg)


def rename(cfg: Config, draw: random.Random) -> Mutant | None:
    found = _draw_place(cfg, draw, lambda place, value: isinstance(place[-1], str))
    if found is None:
        return None
    holder, place = found
    wrong = _misspell(place[-1], draw)
    # The name of a task or of a hook is the user's.
    is_name = place[:-1] in (('model', 'distill'), ('default_hooks', )) or wrong in holder
    holder[wrong] = holder.pop(place[-1])
    return Mutant(f'{_key(place)} renamed to {wrong}', {wrong, *_names(place)}, not is_name, cfg)


def retype(cfg: Config, draw: random.Random) -> Mutant | None:
    found = _draw_place(cfg, draw)
    if found is None:
        return None
    holder, place = found
    old = holder[place[-1]]
    new = copy.deepcopy(draw.choice([value for value in STRANGE if type(value) is not type(old)]))
    holder[place[-1]] = new
    return Mutant(f'{_key(place)}={new!r}', _names(place), False, cfg)


def misspell_value(cfg: Config, draw: random.Random) -> Mutant | None:
    found = _draw_place(cfg, draw, lambda place, value: isinstance(value, str) and len(value) > 1)
    if found is None:
        return None
    holder, place = found
    old = holder[place[-1]]
    holder[place[-1]] = _misspell(old, draw)
    return Mutant(f'{_key(place)}={holder[place[-1]]!r}', _names(place), old != 'AvatarDistiller',
                  cfg)


def exchange_sides(cfg: Config, draw: random.Random) -> Mutant | None:
    model = cfg.model
    if 'student' not in model:
        return None
    task = draw.choice(list(model.distill))
    if draw.random() < 0.5:
        model.student, model.teacher = model.teacher, model.student
        return Mutant(f'student and teacher exchanged (draw {draw.randrange(10)})', {'student'},
                      False, cfg)
    model.distill[task].pop('tap', None)
    model.distill[task].update(student_tap='neck' if 'neck' not in str(model.distill[task]) else
                               'backbone', teacher_tap='decode_head.conv_seg')
    return Mutant(f'taps of {task} exchanged', {'tap', 'student_tap', 'teacher_tap', 'levels',
                                                'resize'}, False, cfg)


def spoil_levels(cfg: Config, draw: random.Random) -> Mutant | None:
    task = _draw_task(cfg, draw)
    if task is None:
        return None
    levels = draw.choice([[99], [-99], [], 3, 'all', [0.0], ['0'], dict(a=0), [[0]], [None]])
    cfg.model.distill[task].levels = levels
    return Mutant(f'levels of {task}={levels!r}', {'levels'}, True, cfg)


def spoil_weight(cfg: Config, draw: random.Random) -> Mutant | None:
    places = [place for place, _ in _places(dict(cfg.items()))
              if place[-1] in WEIGHTS and place[0] in ('model', 'default_hooks')
              and 'student' not in place]
    if not places:
        return None
    place = draw.choice(places)
    holder: Any = cfg
    for name in place[:-1]:
        holder = holder[name]
    value = draw.choice([-1, -0.5, '7.5', float('nan'), float('inf'), [1.0], None, True])
    holder[place[-1]] = value
    # No end of a temperature's warm-up is the end of training, and so on: None may be a default.
    return Mutant(f'{_key(place)}={value!r}', _names(place), True, cfg)


def spoil_tap(cfg: Config, draw: random.Random) -> Mutant | None:
    task = _draw_task(cfg, draw)
    if task is None:
        return None
    key = draw.choice([key for key in cfg.model.distill[task] if key.endswith('tap')])
    tap = draw.choice([_misspell(cfg.model.distill[task][key], draw), '', None, 7, ['neck'],
                       'bbox_head.loss_cls', 'data_preprocessor'])
    cfg.model.distill[task][key] = tap
    return Mutant(f'model.distill.{task}.{key}={tap!r}', {'tap', key}, True, cfg)


def spoil_hook(cfg: Config, draw: random.Random) -> Mutant | None:
    names = [name for _, name in OUR_HOOKS if name in cfg.default_hooks]
    if not names:
        return None
    name = draw.choice(names)
    key, value = draw.choice([('mode', 'exponential'), ('mode', None), ('mode', 3), ('steps', 4),
                              ('by_epoch', 'no'), ('stop', 0), ('stop', '9'), ('begin', -1),
                              ('begin', 0.5), ('gamma', 2.0), ('priority', 'URGENT'),
                              ('tasks', ['nek']), ('tasks', 3), ('type', 'Perturbation')])
    cfg.default_hooks[name][key] = value
    return Mutant(f'default_hooks.{name}.{key}={value!r}', {key, f'default_hooks.{name}'}
                  if key == 'priority' else {key}, True, cfg)


def spoil_scope(cfg: Config, draw: random.Random) -> Mutant | None:
    if draw.random() < 0.3:
        cfg.default_scope = draw.choice(['mmdte', 'mmyolo', 3, 'mm det'])
        return Mutant(f'default_scope={cfg.default_scope!r}', {'default_scope'}, True, cfg)
    found = _draw_place(cfg, draw, lambda place, value: place[-1] == 'type'
                        and isinstance(value, str))
    if found is None:
        return None
    holder, place = found
    holder.type = f'{draw.choice(["mmdte", "mmseg2", "torch"])}.{holder.type}'
    return Mutant(f'{_key(place)}={holder.type!r}', {'type'} | _names(place), True, cfg)


def spoil_reference(cfg: Config, draw: random.Random) -> Mutant | None:
    if 'teacher' not in cfg.model:
        return None
    key = draw.choice([key for key in ('teacher', 'student', 'teacher_ckpt') if key in cfg.model])
    value = draw.choice(['mmdet::retinanet/nope.py', 'mmdte::a.py', 'no/such_file.py', '', 7, [],
                         dict(cfg='mmseg::nope.py'), dict(depth=3), 'auto'])
    cfg.model[key] = value
    return Mutant(f'model.{key}={value!r}', {key}, True, cfg)


def spoil_type(cfg: Config, draw: random.Random) -> Mutant | None:
    found = _draw_place(cfg, draw, lambda place, value: place[-1] == 'type'
                        and isinstance(value, str))
    if found is None:
        return None
    holder, place = found
    new = draw.choice([name for name in OTHER_KINDS if name != holder.type])
    holder.type = new
    # Another loss is no mistake where it takes the same arguments.
    return Mutant(f'{_key(place)}={new!r}', {'type', *map(str, holder), *map(str, place)}, False,
                  cfg)


def _draw_task(cfg: Config, draw: random.Random) -> str | None:
    return draw.choice(list(cfg.model.distill)) if 'distill' in cfg.model else None


# How often each is drawn.
CHANGES: dict[Callable[[Config, random.Random], Mutant | None], int] = {
    remove: 3, rename: 4, retype: 5, misspell_value: 3, exchange_sides: 1, spoil_levels: 1,
    spoil_weight: 2, spoil_tap: 2, spoil_hook: 3, spoil_scope: 1, spoil_reference: 1,
    spoil_type: 2}
