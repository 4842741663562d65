"""Write the page."""
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from PIL import Image

from comparison_page.models import AKD, STUDENT
from comparison_page.scores import ModelScores
from mmakd.metrics.calibration_error import draw_reliability

# Of the pictures; larger ones make a page of many megabytes.
_WIDTH = 480


def write_page(path: Path, models: dict[str, BaseModel], scores: dict[str, Any], dataset: Any,
               num_images: int, **facts: Any) -> None:
    """Write the page.

    Args:
        path (Path): The file.
        models (dict[str, BaseModel]): The models by name.
        scores (dict[str, ModelScores]): Their scores.
        dataset (Any): The validation set.
        num_images (int): How many images to show that gained, and how many that lost.
        **facts: What else the template names.
    """
    first, akd, *_ = every = list(scores.values())
    change = akd.images - first.images
    order = [index for index in np.argsort(change, kind='stable') if abs(change[index]) > 0]
    gained = [index for index in reversed(order) if change[index] > 0]
    lost = [index for index in order if change[index] < 0]
    with rc_context({'svg.fonttype': 'none'}):
        bins = {name: of.row.bins for name, of in scores.items() if of.ece == of.ece}
        reliability = _svg(draw_reliability(bins)) if bins else ''
        confusion = [] if not hasattr(first, 'confusion') else [
            *(_svg(of.draw_confusion(name)) for name, of in scores.items()),
            _svg(akd.draw_confusion(f'{AKD} - {STUDENT}', first))]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template('page.html').render(
        names=list(models), number=len(change), unit=next(iter(first.groups['over all'])),
        how=first.how, confusion=confusion, reliability=reliability,
        tables={heading: [_row(name, [of.groups[heading][name] for of in every])
                          for name in group] for heading, group in first.groups.items()},
        calibration=[_row('ECE', [of.ece for of in every], '.4f', -1),
                     _row('NLL', [of.nll for of in every], '.4f', -1)],
        changed=[(title, len(indices), [_card(index, models, scores, dataset)
                                        for index in indices[:num_images]])
                 for title, indices in (('gained', gained), ('lost', lost))],
        palette=list(zip(*(first.metainfo.get(key) or () for key in ('classes', 'palette')))),
        **facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _row(name: str, values: Sequence[float], form: str = '.1f', sign: int = 1) -> dict[str, Any]:
    """Format a row of a table; ``sign`` is -1 where less is better."""
    change = format(values[1] - values[0], f'+{form}')
    better = sign * float(change)
    return dict(name=name, cells=['-' if np.isnan(value) else format(value, form)
                                  for value in values],
                change='-' if np.isnan(better) else change,
                mark='better' if better > 0 else 'worse' if better < 0 else '')


@torch.no_grad()
def _card(index: int, models: dict[str, BaseModel], scores: dict[str, ModelScores],
          dataset: Any) -> tuple[str, list[tuple[str, str]]]:
    """Draw what is there in an image, and what each model predicts."""
    batch = pseudo_collate([dataset[int(index)]])
    sample, = batch['data_samples']
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    image = mmcv.imresize(image, (_WIDTH, round(len(image) * _WIDTH / image.shape[1])))
    drawn = [('truth', scores[STUDENT].draw(image, sample, 'gt'))]
    for name, model in models.items():
        predicted, = model.val_step(batch)
        drawn.append((f'{name}: {scores[name].images[index]:.1f}',
                      scores[name].draw(image, predicted.cpu(), 'pred')))
    return Path(sample.img_path).name, [(title, _data_uri(picture)) for title, picture in drawn]


def _data_uri(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=80)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'


def _svg(figure: Figure) -> str:
    """Give a figure as an SVG element, without the addresses in prolog and metadata."""
    file = io.StringIO()
    figure.savefig(file, format='svg',
                   metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    return file.getvalue()[file.getvalue().index('<svg'):]
