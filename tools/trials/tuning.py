"""The search for the temperature and the weight of a base, the same for all."""
from collections.abc import Callable, Iterable
from statistics import mean
from typing import Any

from trials.arms import BASES
from trials.cells import Setting

# Used for nothing else.
TUNING_SEEDS = (100, 101)
_STEP = 3.0
# In steps from the starting weight.
_FURTHEST = 3


class Search:
    """The search for the setting of one base.

    All temperatures at the starting weight; then, at the best one, a third and three times that
    weight; then a further factor of 3 as long as the best weight is the last one tried, at most
    27 or 1/27 in all. The best setting has the highest mean metric over the tuning seeds.

    Args:
        data (str): A key of :data:`trials.tasks.DATA`.
        task (str): A key of :data:`trials.tasks.TASKS`.
        base (str): A key of :data:`trials.arms.BASES`.
        records (Iterable[dict]): Results; others than of this search are left out.
        is_valid (Callable[[dict], bool]): Whether a result is of today's config. Defaults to
            taking all.
    """

    def __init__(self, data: str, task: str, base: str, records: Iterable[dict[str, Any]],
                 is_valid: Callable[[dict], bool] = lambda record: True) -> None:
        self._base = BASES[base]
        self._start = self._base.loss_weight[task]
        found: dict[Setting, dict[int, float]] = {}
        for record in records:
            if (record['data'], record['task'], record['arm']) == (data, task, base) and record[
                    'seed'] in TUNING_SEEDS and is_valid(record):
                metric = record['metric']
                # A training that broke down is the worst.
                found.setdefault(Setting(**record['setting']), {})[record['seed']] = (
                    0.0 if metric is None else metric)
        self.scores = {setting: mean(by_seed.values()) for setting, by_seed in found.items()
                       if len(by_seed) == len(TUNING_SEEDS)}

    def step(self) -> tuple[list[Setting], Setting | None]:
        """Tell what comes next.

        Returns:
            tuple[list[Setting], Setting | None]: The settings to try next, and, where there are
            none, the best.
        """
        taus = self._base.taus or (None, )
        tries = [Setting(tau, self._start) for tau in taus]
        if self._missing(tries):
            return self._missing(tries), None
        tau = self._best(tries).tau
        low, high = -1, 1
        while True:
            tries = [self._setting(tau, power) for power in range(low, high + 1)]
            if self._missing(tries):
                return self._missing(tries), None
            best = self._best(tries)
            if best == tries[0] and low > -_FURTHEST:
                low -= 1
            elif best == tries[-1] and high < _FURTHEST:
                high += 1
            else:
                return [], best

    def _setting(self, tau: float | None, power: int) -> Setting:
        return Setting(tau, float(f'{self._start * _STEP**power:.6g}'))

    def _missing(self, tries: list[Setting]) -> list[Setting]:
        return [setting for setting in tries if setting not in self.scores]

    def _best(self, tries: list[Setting]) -> Setting:
        # The first of equals, which is the nearest to where it began among temperatures.
        return max(tries, key=self.scores.__getitem__)
