"""What was measured in a training of CWD and one of AKD on it, as a figure."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trials.plot import save

_COLORS = dict(zip(('cwd', 'akd-cwd'), ('0.5', 'C0')))


def share(point: dict[str, Any]) -> float:
    """Compute the share of the distillation in the gradient from both norms."""
    return point['distill'] / (point['distill'] + point['task'])


def plot_why(base: dict[str, Any], akd: dict[str, Any], path: Path) -> None:
    """Draw sigma of each channel, the gradient's share and its variances, over the training.

    Args:
        base (dict): Result of CWD.
        akd (dict): Result of AKD.
        path (Path): The figure, SVG.
    """
    figure = Figure(figsize=(10, 3.2), layout='constrained')
    sigmas, shares, variances = figure.subplots(1, 3)
    iters = [point['iter'] for point in akd['sigma']]
    for number, level in enumerate(zip(*(point['levels'] for point in akd['sigma']))):
        relative = np.array(level) / np.mean(level, axis=1, keepdims=True)
        lines = sigmas.plot(iters, relative, color=f'C{number + 1}', linewidth=0.7)
        lines[0].set_label(f'level {number}')
    sigmas.set_ylim(0, 1.2 * sigmas.get_ylim()[1])
    sigmas.legend(fontsize='small', frameon=False, ncols=3, loc='upper center')
    sigmas.set_title('sigma of each channel / mean', fontsize='medium')
    for record in base, akd:
        points = record['gradients']
        style: Any = dict(marker='o', markersize=4, color=_COLORS[record['arm']])
        iters = [point['iter'] for point in points]
        name = 'AKD' if record is akd else 'CWD'
        shares.plot(iters, [share(point) for point in points], label=name, **style)
        variances.plot(iters, _values(points, 'batches'), label=f'{name}, over batches', **style)
    variances.plot(iters, _values(akd['gradients'], 'draws'), label='AKD, over Avatars',
                   **dict(style, marker='s', linestyle='--'))
    shares.set_ylim(0, 1)
    shares.set_title("distillation's share of the gradient", fontsize='medium')
    variances.set_yscale('log')
    variances.set_title('variance of its gradient / squared norm', fontsize='medium')
    for axes in shares, variances:
        axes.legend(fontsize='small', frameon=False)
    for axes in sigmas, shares, variances:
        axes.set_xlabel('iteration')
    save(figure, path)


def _values(points: list[dict[str, Any]], key: str) -> list[float]:
    return [np.nan if point[key] is None else point[key] for point in points]
