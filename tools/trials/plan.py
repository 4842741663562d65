"""What to train, in the order that answers the most at any moment."""
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmakd.hooks.atomic_checkpoint_hook import AtomicLocalBackend
from trials.arms import ARMS, BASES, HEADLINE, REGIMES, REST
from trials.cells import TEACHER, Cell, Place, Setting
from trials.results import Results, cell_key, key
from trials.tuning import TUNING_SEEDS, Search

# Both tasks of shapes first, then the same on digits, then the regimes, then the rest.
_ORDER = ((HEADLINE, ('shapes', )), (HEADLINE, ('digits', )),
          (REGIMES, ('shapes', 'digits')), (REST, ('shapes', 'digits')))


class Item(NamedTuple):
    """A training that is wanted, with whatever it needs first.

    Args:
        data (str): The data set.
        task (str): The task.
        arm (str): The arm.
        seed (int, optional): The seed; None for the search for the arm's setting alone.
    """

    data: str
    task: str
    arm: str
    seed: int | None


def list_items(arms: Sequence[str], seeds: Sequence[int | None], tasks: Sequence[str],
               data: Sequence[str]) -> list[Item]:
    """List what is wanted, in order."""
    return [Item(name, task, arm, seed)
            for group, names in _ORDER for seed in seeds for name in names if name in data
            for task in tasks for arm in group if arm in arms and task in ARMS[arm].tasks]


class Plan:
    """Tells which cells can be trained now.

    Args:
        items (Sequence[Item]): What is wanted.
        results (Results): Where results are.
        place (Place): Where cells train.
    """

    def __init__(self, items: Sequence[Item], results: Results, place: Place) -> None:
        self.items = items
        self.results = results
        self.place = place
        self.refresh()

    def refresh(self) -> None:
        """Read the results again, which other processes add to."""
        self._finished = {key(record): record for record in self.results.read()}
        self._settings: dict[tuple, Setting | list[Setting]] = {}

    def result(self, cell: Cell) -> dict[str, Any]:
        """Look up the result of a finished cell."""
        return self._finished[cell_key(cell)]

    def is_finished(self, cell: Cell) -> bool:
        """Tell whether a cell has a result, of today's config, and a teacher its weights."""
        record = self._finished.get(cell_key(cell))
        return record is not None and record['config'] == cell.config_hash and (
            cell.arm != TEACHER or cell.weights.is_file())

    def cells(self) -> Iterator[Cell]:
        """Iterate over the cells that are ready and not finished, in order, each once."""
        seen = set()
        for item in self.items:
            for cell in self._cells_of(item):
                if cell not in seen:
                    seen.add(cell)
                    yield cell

    def num_missing(self) -> int:
        """Count the cells that are known to be missing, ready or not."""
        ready = set(self.cells())
        waiting = sum(not self._is_done(item) for item in self.items if item.seed is not None)
        return waiting + sum(cell.arm == TEACHER or cell.seed in TUNING_SEEDS for cell in ready)

    def unready(self) -> list[str]:
        """List what must be done first by other commands: nothing."""
        return []

    def _is_done(self, item: Item) -> bool:
        setting = self.setting(item)
        assert item.seed is not None
        return not isinstance(setting, list) and self.is_finished(
            Cell(item.data, item.task, item.arm, item.seed, setting, self.place))

    def _cells_of(self, item: Item) -> Iterator[Cell]:
        setting = self.setting(item)
        base = ARMS[item.arm].base
        if isinstance(setting, list):
            wanted = [Cell(item.data, item.task, str(base), seed, step, self.place)
                      for step in setting for seed in TUNING_SEEDS]
        elif item.seed is None:
            return
        else:
            wanted = [Cell(item.data, item.task, item.arm, item.seed, setting, self.place)]
        for cell in wanted:
            if not self.is_finished(cell):
                missing = [teacher for teacher in cell.teachers if not self.is_finished(teacher)]
                yield from missing or [cell]

    def setting(self, item: Item) -> Setting | list[Setting] | None:
        """Find the setting of an arm.

        Returns:
            Setting | list[Setting] | None: A list where the search is not over: what it tries
            next. None for a student without a teacher.
        """
        arm = ARMS[item.arm]
        if arm.base is None:
            return None
        if arm.tau is not None:
            return Setting(arm.tau, BASES[arm.base].loss_weight[item.task])
        place = item.data, item.task, arm.base
        if place not in self._settings:
            self._settings[place] = self._search(*place)
        return self._settings[place]

    def _search(self, data: str, task: str, base: str) -> Setting | list[Setting]:
        name = f'{data}/{task}/{base}'
        chosen = read_settings(self.results.folder)
        if name in chosen:
            return chosen[name]
        tries, best = Search(data, task, base, self._finished.values(), self._is_valid).step()
        if best is None:
            return tries
        # Each process that gets here chooses the same.
        write_settings(self.results.folder, {**chosen, name: best})
        return best

    def _is_valid(self, record: dict[str, Any]) -> bool:
        cell = Cell(record['data'], record['task'], record['arm'], record['seed'],
                    Setting(**record['setting']), self.place)
        return self.is_finished(cell)


def read_settings(folder: Path) -> dict[str, Setting]:
    """Read the chosen settings, by ``<data>/<task>/<base>``."""
    path = folder / 'settings.json'
    if not path.is_file():
        return {}
    return {name: Setting(**setting) for name, setting in json.loads(path.read_text()).items()}


def write_settings(folder: Path, settings: dict[str, Setting]) -> None:
    """Write the chosen settings, whole."""
    lines = {name: setting._asdict() for name, setting in sorted(settings.items())}
    text = json.dumps(lines, indent=1) + '\n'
    AtomicLocalBackend().put(text.encode(), folder / 'settings.json')
