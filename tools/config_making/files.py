"""The text of the configs that are written."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.config import Config

from mmakd.checks.keys import RUNNER_KEYS

from .methods import AKD
from .networks import Side
from .own_data import OwnData
from .taps import Choice

_AVATARS = """\
            loss=dict(
                type='UncertaintyFeatureLoss',
                criterion={criterion},
                # The Avatars: the teacher's maps, each position dropped with probability 0.1.
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                # Sigma, by which the loss divides each channel.
                uncertainty=dict(type='AvatarVariance'),
                num_avatars=1,
                loss_weight={loss_weight}))))  # {source}
default_hooks = dict(perturbation=dict(type='PerturbationHook'))
"""
_PLAIN = """\
            # {source}.
            loss={loss})))
"""
_BASE = """\
# {criterion} alone, without Avatars and sigma: what {config} is compared with.
_base_ = {config!r}
model = dict(
    distill=dict(
        {task}=dict(
            loss={loss})))
"""


def write_whole(side: Side, data: OwnData | None) -> str:
    """Write a whole config, without the variables that only served to build it."""
    kept = {key: value for key, value in side.cfg.items()
            if key in RUNNER_KEYS or key.startswith('tta_')}
    place = f', with the data of {data.root.as_posix()}' if data else ''
    return f'# {side.name} and all that it inherits{place}.\n{Config(kept).pretty_text}'


def write_distiller(base: str, cfg: Config, method: str, teacher: str, teacher_ckpt: str | None,
                    notes: Iterable[str], choice: Choice) -> str:
    """Write the config of the distiller.

    Args:
        base (str): Path of the student's config, as seen from the written one.
        cfg (Config): What it holds.
        method (str): The criterion, with or without ``akd-``.
        teacher (str): Reference or path.
        teacher_ckpt (str, optional): Its weights; ``'auto'`` for the published ones.
        notes (Iterable[str]): What is to be known of the teacher.
        choice (Choice): The task.
    """
    own = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = list(dict.fromkeys([*([own] if isinstance(own, str) else own), 'mmakd']))
    lines = [
        f'# {_TITLES[method.startswith(AKD)]}, written by tools/make_config.py.',
        f'_base_ = {base!r}  # the data, the schedule and the hooks of the student',
        f'custom_imports = dict(imports={imports!r}, allow_failed_imports=False)',
        'model = dict(',
        '    _delete_=True,',
        "    type='AvatarDistiller',",
        '    student={{_base_.model}},',
        *(f'    # {note}' for note in notes),
        f'    teacher={teacher!r},']
    if teacher_ckpt != 'auto':
        lines.append(f'    teacher_ckpt={teacher_ckpt!r},')
    lines += ['    distill=dict(', f'        # {_describe_maps(choice)}',
              f'        {choice.name}=dict(']
    same = choice.taps[0] == choice.taps[1]
    lines += [f'            {key}={tap!r},' for key, tap in
              ([('tap', choice.taps[0])] if same else
               zip(('student_tap', 'teacher_tap'), choice.taps))]
    if choice.levels is not None:
        lines.append(f'            levels={choice.levels!r},')
    if choice.resize:
        lines.append("            resize=True,  # the student's maps, to the teacher's size")
    if choice.setting.adapter:
        lines.append("            adapter=dict(type='ConvAdapter'),")
    setting = choice.setting
    text = _AVATARS if method.startswith(AKD) else _PLAIN
    text = '\n'.join(lines) + '\n' + text.format(
        criterion=_in_config(setting.criterion), loss_weight=setting.loss_weight,
        source=setting.source, loss=_in_config(_loss(choice)))
    if setting.optim_wrapper and not cfg.optim_wrapper.get('clip_grad'):
        text += f'optim_wrapper = {_in_config(setting.optim_wrapper)}\n'
    return text


def write_base(config: str, choice: Choice) -> str:
    """Write the child of a distiller's config, without Avatars."""
    loss = _in_config(dict(_delete_=True, **_loss(choice)))
    return _BASE.format(criterion=choice.setting.criterion['type'], config=config,
                        task=choice.name, loss=loss)


_TITLES = {True: 'Avatar Knowledge Distillation', False: 'Distillation without Avatars'}


def _loss(choice: Choice) -> dict[str, Any]:
    return dict(choice.setting.criterion, loss_weight=choice.setting.loss_weight)


def _in_config(value: Any) -> str:
    """Write a value as configs are written."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={_in_config(part)}" for key, part in value.items())})'
    return repr(value)


def _describe_maps(choice: Choice) -> str:
    """Say what is compared."""
    of_student, of_teacher, _ = choice.maps
    levels = range(len(of_student)) if choice.levels is None else choice.levels
    channels = {(of_student[i].size(1), of_teacher[i].size(1)) for i in levels}
    words = [f'{len(levels)} map{"s" * (len(levels) > 1)}']
    if len(of_student) != len(of_teacher):
        words.append(f'the student gives {len(of_student)}, the teacher {len(of_teacher)}')
    for ours, theirs in sorted(channels):
        words.append(f'{ours} channels' if ours == theirs else
                     f'{ours} channels of the student, {theirs} of the teacher')
    return ', '.join(words)
