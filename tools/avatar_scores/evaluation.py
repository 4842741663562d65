"""The scores of a teacher, of its Avatars and of their mean on a validation set."""
import copy
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track

from avatar_scores.logits import Logits, find_logits
from avatar_scores.predictions import Variant, predict
from mmakd.avatars import Perturbation
from mmakd.checks.data_files import check_data
from mmakd.checks.parts import quiet
from mmakd.distillers import AvatarDistiller
from mmakd.distillers.tap_pair import TapPair, make_tap_pair
from mmakd.distillers.teacher import Teacher, teacher_key
from mmakd.metrics.calibration_bins import CalibrationBins
from mmakd.metrics.outcomes import Outcomes
from mmakd.utils.errors import ConfigError, ConfigProblems, suggest
from mmakd.utils.rng import mix_seed

# What a rate is, for each kind of perturbation.
_RATES = ('drop_rate', 'std')


@dataclass
class Subject:
    """What is evaluated.

    Attributes:
        task (str): Name of the task.
        teacher (Teacher): Its teacher, loaded.
        pair (TapPair): Its taps and the module that is perturbed.
        perturbation (Perturbation): That of its loss.
        rate_key (str): The perturbation's ``drop_rate`` or ``std``.
        logits (Logits): What the tap's output is.
    """

    task: str
    teacher: Teacher
    pair: TapPair
    perturbation: Perturbation
    rate_key: str
    logits: Logits

    def with_rate(self, rate: float) -> Perturbation:
        """Make a copy of the perturbation with another rate."""
        perturbation = copy.deepcopy(self.perturbation)
        setattr(perturbation, self.rate_key, rate)
        return perturbation


@dataclass
class Row:
    """The scores of a variant, summed up batch by batch."""

    evaluator: Evaluator
    bins: CalibrationBins = field(default_factory=CalibrationBins)
    log_loss: float = 0
    number: int = 0

    def add(self, outcomes: Outcomes) -> None:
        """Add the predictions of one image."""
        self.bins.update(outcomes.confidence, outcomes.correct)
        self.log_loss += float(outcomes.log_loss.double().sum())
        self.number += len(outcomes.log_loss)

    def scores(self, num_images: int) -> dict[str, Any]:
        """Compute the evaluator's metrics, NLL and ECE (None without predictions)."""
        metrics = self.evaluator.evaluate(num_images)
        return dict(metrics={name: float(score) for name, score in metrics.items()
                             if isinstance(score, Real)},
                    nll=self.log_loss / self.number if self.number else None,
                    ece=self.bins.ece(), predictions=self.number)


def check_validation(cfg: Config, problems: ConfigProblems) -> None:
    """Check that a config names validation data, which is there, and metrics."""
    with problems.under(''):
        check_data(cfg, 'val')
    problems.problems += [f'{key}: missing; give the validation data and its metrics'
                          for key in ('val_dataloader', 'val_evaluator') if not cfg.get(key)]


def build_subject(cfg: Config, checkpoint: str | None = None, task: str | None = None,
                  perturb_at: str | None = None) -> Subject:
    """Build the distiller of a config, choose a task at logits, and load its teacher.

    Args:
        cfg (Config): A config of ``AvatarDistiller``.
        checkpoint (str, optional): Path or URL, instead of the config's. Defaults to None.
        task (str, optional): Name of the task. Defaults to None, the one at logits.
        perturb_at (str, optional): Path of the module whose input is perturbed. Defaults to None,
            the task's or else the tap.

    Raises:
        ConfigError: If the config has no such task, or something else is wrong with it.
    """
    problems = ConfigProblems()
    check_validation(cfg, problems)
    with problems.attempt('model'), problems.under(''), quiet():
        model = _build_model(cfg)
    problems.raise_if_any()
    logits = {name: find_logits(model.teachers[pair.of].network)
              for name, pair in model.taps.items()}
    task = _choose_task(cfg, model, logits, task)
    pair = model.taps[task]
    teacher = model.teachers[pair.of]
    distill_task: Any = model.distiller[task]
    loss = distill_task.losses[0]
    perturbation = getattr(loss, 'perturbation', None)
    if perturbation is None:
        raise ConfigError(f'model.distill.{task}.loss: makes no Avatars; give an '
                          'UncertaintyFeatureLoss with a perturbation')
    rate_keys = [key for key in _RATES if hasattr(perturbation, key)]
    if not rate_keys:
        raise ConfigError(f'model.distill.{task}.loss.perturbation: has neither '
                          f'{" nor ".join(_RATES)}, which --rates would set; give another one')
    perturb_at = perturb_at or pair.perturb_at or pair.teacher
    of = pair.of
    pair = make_tap_pair(model.student, teacher.network, pair[:2], perturb_at)._replace(of=of)
    if checkpoint is not None:
        teacher.checkpoint = checkpoint
    teacher.load()
    return Subject(task, teacher, pair, perturbation, rate_keys[0], logits[task][pair.teacher])


def _build_model(cfg: Config) -> AvatarDistiller:
    wanted = copy.deepcopy(cfg.get('model') or {})
    if wanted.get('type') != AvatarDistiller.__name__:
        raise ConfigError(f"model.type={wanted.get('type')!r}: has no teacher; name a config "
                          'whose model is an AvatarDistiller')
    if cfg.get('data_preprocessor') is not None:
        wanted.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(wanted)


def _choose_task(cfg: Config, model: AvatarDistiller, logits: dict[str, dict[str, Logits]],
                 task: str | None) -> str:
    if task is not None and task not in logits:
        raise ConfigError(f'--task={task!r}: no such task; {suggest(task, logits)}')
    asked = list(logits) if task is None else [task]
    fitting = [name for name in asked if model.taps[name].teacher in logits[name]]
    if len(fitting) > 1:
        raise ConfigError('--task: missing; several tasks tap logits, choose one of '
                          f'{", ".join(map(repr, fitting))}')
    if fitting:
        return fitting[0]
    problems = []
    for name in asked:
        key = 'tap' if 'tap' in cfg.model.distill[name] else 'teacher_tap'
        remedy = (f'tap e.g. {next(iter(logits[name]))!r}' if logits[name] else
                  'this teacher has none that are known: use a segmentor with conv_seg or a '
                  'dense detector')
        problems.append(f'model.distill.{name}.{key}={model.taps[name].teacher!r}: not at logits, '
                        f'and Avatars are evaluated at logits only; {remedy}')
    raise ConfigError(problems)


def evaluate(cfg: Config, subject: Subject, rates: list[float], num_avatars: int, device: str,
             seed: int) -> list[dict[str, Any]]:
    """Evaluate teacher, one Avatar and the mean of several on the validation set.

    Args:
        cfg (Config): The config, for its data and metrics.
        subject (Subject): What is evaluated.
        rates (list[float]): Rates of the perturbation.
        num_avatars (int): Number of Avatars, at least 2.
        device (str): Where to run.
        seed (int): Seed of the Avatars, with the number of the batch.

    Returns:
        list[dict]: A row each of: ``perturbed``, ``rate`` and ``num_avatars`` as of
        :class:`avatar_scores.predictions.Variant`, ``metrics`` by name, ``nll``, ``ece`` and
        ``predictions``, the number of pixels or detections.

    Raises:
        ConfigError: If the teacher's classes are not those of the data, or Avatars cannot be made.
    """
    with quiet():
        dataloader: Any = Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader), seed=seed)
    metainfo = getattr(dataloader.dataset, 'metainfo', {})
    _check_classes(subject, metainfo)
    network = subject.teacher.network.to(device)
    perturbations = {rate: subject.with_rate(rate) for rate in rates}
    rows: dict[Variant, Row] = {}
    console = Console(stderr=True)
    for number, batch in enumerate(track(dataloader, 'Evaluating', console=console,
                                         transient=True)):
        for variant, samples in predict(network, subject.pair, perturbations, num_avatars, batch,
                                        mix_seed(seed, number)):
            if variant not in rows:
                with quiet():
                    rows[variant] = Row(Evaluator(copy.deepcopy(cfg.val_evaluator)))
                rows[variant].evaluator.dataset_meta = metainfo
            for sample in samples:
                rows[variant].add(subject.logits.outcomes(sample))
            rows[variant].evaluator.process(data_samples=samples, data_batch=batch)
    with quiet():  # every metric logs tables of its own
        return [dict(variant._asdict(), **row.scores(len(dataloader.dataset)))
                for variant, row in rows.items()]


def _check_classes(subject: Subject, metainfo: dict[str, Any]) -> None:
    classes, own = metainfo.get('classes'), subject.logits.num_classes
    if classes and len(classes) != own:
        raise ConfigError(f'{teacher_key(subject.teacher.name, "cfg")}: its head has {own} '
                          f'classes, val_dataloader.dataset {len(classes)}; evaluate it on data '
                          'of its own classes')
