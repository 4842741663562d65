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
from PIL import Image

from comparison_page.models import AKD, STUDENT
from comparison_page.scores import ModelScores
from mmakd.metrics.calibration_error import draw_reliability

# Of the pictures; larger ones make a page of many megabytes.
_WIDTH = 480


def write_page(path: Path, models: dict[str, Any], scores: dict[str, ModelScores], dataset: Any,
               num_images: int, **facts: Any) -> None:
    """Write the page; ``facts`` is what else the template names."""
    first, akd, *_ = every = list(scores.values())
    change = akd.images - first.images
    order = np.argsort(change, kind='stable')  # nan last
    changed = {'gained': [index for index in order[::-1] if change[index] > 0],
               'lost': [index for index in order if change[index] < 0]}
    bins = {name: of.bins for name, of in scores.items() if not np.isnan(of.ece)}
    confusion = [*(of.draw_confusion(name) for name, of in scores.items()),
                 akd.draw_confusion(f'{AKD} - {STUDENT}', first)]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template('page.html').render(
        names=list(models), number=len(change), unit=next(iter(first.groups['over all'])),
        how=first.how, reliability=_svg(draw_reliability(bins)) if bins else '',
        confusion=[_svg(figure) for figure in confusion if figure],
        tables={heading: [_row(name, [of.groups[heading][name] for of in every])
                          for name in group] for heading, group in first.groups.items()},
        calibration=[_row('ECE', [of.ece for of in every], '.4f', -1)],
        changed=[(title, len(indices), [_card(int(index), models, scores, dataset)
                                        for index in indices[:num_images]])
                 for title, indices in changed.items()],
        palette=list(zip(*(first.metainfo.get(key) or () for key in ('classes', 'palette')))),
        **facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _row(name: str, values: Sequence[float], form: str = '.1f', sign: int = 1) -> dict[str, Any]:
    """Format a row of a table; ``sign`` is -1 where less is better."""
    change, *cells = ('-' if np.isnan(value) else format(value, form)
                      for value in (values[1] - values[0], *values))
    better = 0 if change == '-' else sign * float(change)
    return dict(name=name, cells=cells, change=f'+{change}' if change[0].isdigit() else change,
                mark='better' if better > 0 else 'worse' if better < 0 else '')


@torch.no_grad()
def _card(index: int, models: dict[str, Any], scores: dict[str, ModelScores],
          dataset: Any) -> tuple[str, list[tuple[str, str]]]:
    """Draw what is there in an image, and what each model predicts."""
    batch = pseudo_collate([dataset[index]])
    sample, = batch['data_samples']
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    image = mmcv.imresize(image, (_WIDTH, round(len(image) * _WIDTH / image.shape[1])))
    drawn = {'truth': scores[STUDENT].draw(image, sample, 'gt')}
    for name, model in models.items():
        predicted, = model.val_step(batch)
        drawn[f'{name}: {scores[name].images[index]:.1f}'] = scores[name].draw(
            image, predicted.cpu(), 'pred')
    return Path(sample.img_path).name, [(title, _data_uri(each)) for title, each in drawn.items()]


def _data_uri(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=80)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'


def _svg(figure: Figure) -> str:
    """Give a figure as an SVG element, without the addresses in prolog and metadata."""
    file = io.StringIO()
    with rc_context({'svg.fonttype': 'none'}):
        figure.savefig(file, format='svg',
                       metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    return file.getvalue()[file.getvalue().index('<svg'):]
