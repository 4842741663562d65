"""Scores that are computed once and kept in a folder."""
import hashlib
import json
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn


def digest(network: nn.Module, *settings: Any) -> str:
    """Identify a network's score.

    Args:
        network (nn.Module): The network, whose weights count byte by byte.
        *settings (Any): What else the score depends on; their ``repr`` counts.

    Returns:
        str: SHA-256, 64 hexadecimal digits.
    """
    sha256 = hashlib.sha256(repr(settings).encode())
    for name, value in network.state_dict().items():
        sha256.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        sha256.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


class ScoreCache:
    """Keeps scores as JSON files.

    Args:
        folder (str | Path): Where they lie; created when the first is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, name: str) -> dict[str, float] | None:
        """Read scores.

        Args:
            name (str): What they were kept under.

        Returns:
            dict[str, float] | None: The scores; None where there are none, or a damaged file.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            scores = json.loads(path.read_text())['scores']
            return {metric: float(score) for metric, score in scores.items()}
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            print_log(f'{path} is damaged and not used ({type(error).__name__}: {error})',
                      'current', level=logging.WARNING)
            return None

    def save(self, name: str, scores: dict[str, float], **notes: Any) -> None:
        """Keep scores; where the folder cannot be written, warn only.

        Args:
            name (str): What to keep them under.
            scores (dict[str, float]): The scores by metric.
            **notes (Any): Written beside them, for a human reader.
        """
        path = self._path(name)
        part = path.with_suffix(f'.{uuid.uuid4().hex}.part')
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(dict(notes, scores=scores), indent=1) + '\n')
            os.replace(part, path)  # whoever reads meanwhile sees all of it or none
        except OSError as error:
            print_log(f'The scores are not kept: {error}', 'current', level=logging.WARNING)
            with suppress(OSError):
                part.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f'{name}.json'
