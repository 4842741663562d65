"""What was found in a data set."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from mmakd.utils.errors import ConfigProblems, describe

_EXAMPLES = 3
_SAMPLE = 500


@dataclass
class Findings:
    """Facts, problems and notes of all data sets of a config.

    Attributes:
        full (bool): Whether to read all images, or 500 of each split.
        facts (list[str]): One line for each data set, and more.
        problems (ConfigProblems): Problems, and as its warnings what changes a training slightly.
    """

    full: bool
    facts: list[str] = field(default_factory=list)
    problems: ConfigProblems = field(default_factory=ConfigProblems)

    def add(self, place: object, what: str, wrong: Sequence[Any], todo: str,
            of: int | None = None) -> None:
        """Add a problem, unless nothing is wrong.

        Args:
            place (object): The file or folder.
            what (str): What is wrong, as in 'images missing'.
            wrong (Sequence): All that is wrong so.
            todo (str): What to do.
            of (int, optional): How many there are, right or wrong. Defaults to None.
        """
        if len(wrong):
            self.problems.add(f'{place}: {what}: {tell(wrong, of)}; {todo}')

    def read(self, what: str, items: Sequence[Any], look: Callable[[Any], dict[str, str]],
             todo: dict[str, str], place: object) -> None:
        """Look at all or some of the files, a few at a time, and add what is wrong.

        Args:
            what (str): Which files, for the progress bar.
            items (Sequence): What to look at.
            look (Callable): Returns what is wrong with one item, an example by the kind.
            todo (dict[str, str]): What to do, by the kind.
            place (object): The folder.
        """
        chosen = items if self.full else items[::max(1, len(items) // _SAMPLE)]
        wrong: dict[str, list[str]] = {}
        console = Console(stderr=True)
        with ThreadPoolExecutor() as pool:  # decoding leaves the other threads free
            for found in track(pool.map(look, chosen), f'reading {what}', len(chosen),
                               console=console, transient=True, disable=not console.is_terminal):
                for kind, example in found.items():
                    wrong.setdefault(kind, []).append(example)
        for kind, examples in wrong.items():
            self.add(place, kind, examples, todo[kind], len(chosen))
        self.facts.append(f'  {len(chosen):,} of {len(items):,} images decoded')


def tell(wrong: Sequence[Any], of: int | None = None) -> str:
    """Tell how many there are, and a few of them."""
    few = ', '.join(map(str, wrong[:_EXAMPLES])) + ', ...' * (len(wrong) > _EXAMPLES)
    return f'{len(wrong):,}{f" of {of:,}" if of is not None else ""} ({few})'


def decode(path: str | Path) -> tuple[np.ndarray | None, str]:
    """Decode a whole image; return its pixels, or None and why not.

    By Pillow: OpenCV paints the missing part of a truncated image grey, without an error. The
    image is turned as its EXIF data say, as OpenCV does in training.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image)), ''
    except Exception as error:
        return None, describe(error)
