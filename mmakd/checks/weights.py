"""Check the checkpoints of the teacher and of learned tokens."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from ..distillers import AvatarDistiller
from ..distillers.teacher import Teacher, load_teacher_checkpoint, teacher_key
from ..losses import MasKDLoss
from ..utils.checkpoint import is_address, local_path, read_checkpoint
from ..utils.errors import ConfigError, ConfigProblems


def check_weights(teacher: Teacher, problems: ConfigProblems,
                  download: bool) -> tuple[str, dict[str, Any]]:
    """Check a teacher's checkpoint against the teacher.

    The weights are loaded. Without ``download`` no address is fetched, and a local file that is
    missing is only a warning.

    Returns:
        tuple[str, dict[str, Any]]: Where the weights come from, and ``classes`` and ``palette``
        of the data set that the checkpoint names.
    """
    key = teacher_key(teacher.name, 'ckpt')
    if teacher.is_average:
        return "the student's, averaged in training", {}
    if teacher.checkpoint is None:
        problems.warn(f'{key}=None: the teacher keeps random weights; name a checkpoint')
        return 'random', {}
    checkpoint = str(teacher.checkpoint)
    path = local_path(checkpoint)
    if not path.is_file() and not download:
        if is_address(checkpoint):
            return f'{checkpoint} (not checked; fetched when training starts)', {}
        problems.warn(f'{key}={checkpoint!r}: no such file yet; train the teacher first')
        return f'{checkpoint} (no such file yet)', {}
    fits = 'fits'
    try:
        load_teacher_checkpoint(teacher.network, checkpoint, True, teacher.name)
    except ConfigError as misfit:
        try:
            if teacher.strict:
                raise
            load_teacher_checkpoint(teacher.network, checkpoint, False, teacher.name)
        except ConfigError as error:
            problems.problems += error.problems
            return f'{checkpoint} (cannot be used)', {}
        problems.warnings += misfit.problems
        fits = 'fits in part'
    return f'{checkpoint} ({fits})', _read_dataset_meta(path, key)


def check_tokens(model: AvatarDistiller, problems: ConfigProblems, download: bool) -> None:
    """Check the files of learned tokens that ``MasKDLoss`` reads, as :func:`check_weights`."""
    for name, task in model.distiller.items():
        found, key = ConfigProblems(), model.taps[name].key
        for loss in (module for module in task.modules() if isinstance(module, MasKDLoss)):
            is_there = loss.tokens is None or local_path(str(loss.tokens)).is_file()
            with found.attempt(f'{key}.loss'):
                if is_there or download:
                    loss.init_weights()
                elif not is_address(str(loss.tokens)):
                    found.warn(f'{key}.loss.tokens={loss.tokens!r}: no such file yet; learn the '
                               'tokens first')
        # The levels of a task read the same file.
        problems.problems += dict.fromkeys(found.problems)
        problems.warnings += dict.fromkeys(found.warnings)


def _read_dataset_meta(path: Path, key: str) -> dict[str, Any]:
    meta = read_checkpoint(path, key).get('meta', {})
    named = meta.get('dataset_meta') or {}
    # MMDetection 2 and MMSegmentation 0 wrote them in capitals, one level up.
    return dict(classes=named.get('classes') or meta.get('CLASSES'),
                palette=named.get('palette') or meta.get('PALETTE'))
