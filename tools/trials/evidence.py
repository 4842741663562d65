"""What the results are evidence of: which cell counts, and for what."""
from statistics import mean
from typing import Any, NamedTuple

from trials.arms import ALSO_COMPARED, ARMS, BASES, REGIMES
from trials.cells import TEACHER, Cell, Place, Setting
from trials.comparison import Comparison, compare, correct_by_holm, judge
from trials.plan import read_settings
from trials.results import WHY, Results
from trials.tasks import DATA, TASKS
from trials.tuning import TUNING_SEEDS, Search

CONFIRMING = 20
_FIRST_CONFIRMING = 1000
Seeds = dict[int, dict[str, Any]]


class Verdict(NamedTuple):
    """A confirmed comparison.

    Args:
        p (float): Its p value, corrected over all confirmed comparisons.
        words (str): What it says.
    """

    p: float
    words: str


class Stage:
    """Results of one data set and task, of either screening or confirmation.

    Args:
        least (float): The least effect of interest.

    Attributes:
        records (dict[str, Seeds]): By arm and seed.
        verdicts (dict[tuple[str, str | None], Verdict]): Of the confirmed pairs of arms.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self.records: dict[str, Seeds] = {}
        self.verdicts: dict[tuple[str, str | None], Verdict] = {}
        self._comparisons: dict[tuple[str, str], Comparison | None] = {}

    def values(self, arm: str) -> dict[int, float]:
        """List the metrics of an arm, by seed. A training that broke down counts as 0."""
        return {seed: record['metric'] or 0.0
                for seed, record in sorted(self.records.get(arm, {}).items())}

    def compare(self, arm: str, other: str | None) -> Comparison | None:
        """Compare two arms, if there is another and two common seeds."""
        if other is None:
            return None
        if (arm, other) not in self._comparisons:
            self._comparisons[arm, other] = compare(self.values(arm), self.values(other))
        return self._comparisons[arm, other]

    def arms(self) -> list[str]:
        """List the arms that there are results of, in the order of the study."""
        return [arm for arm in ARMS if arm in self.records]

    def best(self) -> str | None:
        """Find the arm with the highest mean among the proven ones, if there are any."""
        proven = [arm for (arm, other), verdict in self.verdicts.items()
                  if verdict.words.startswith('better') and arm not in REGIMES
                  and other == ARMS[arm].against]
        return max(proven, key=lambda arm: mean(self.values(arm).values()), default=None)


class Evidence:
    """All results, sorted.

    Args:
        results (Results): Where they are.

    Attributes:
        stages (dict): A pair of screening and confirmation for each data set and task that has
            results.
        searches (dict[tuple[str, str, str], Search]): Of each data set, task and base.
        settings (dict[str, Setting]): The chosen ones, by ``<data>/<task>/<base>``.
        teachers (list[dict]): Results of the teachers.
        counted (list[dict]): All results of today's configs.
        outdated (list[dict]): The others.
        explanations (list[dict]): Results of the measured trainings, of today's configs.
    """

    def __init__(self, results: Results) -> None:
        self.settings = read_settings(results.folder)
        self.counted: list[dict[str, Any]] = []
        self.outdated: list[dict[str, Any]] = []
        for record in results.read():
            (self.counted if self._counts(record) else self.outdated).append(record)
        self.explanations = [record for record in results._replace(files=WHY).read()
                             if self._counts(record)]
        self.teachers = [record for record in self.counted if record['arm'] == TEACHER]
        self.stages: dict[tuple[str, str], tuple[Stage, Stage]] = {}
        for record in self.counted:
            if record['arm'] != TEACHER and record['seed'] not in TUNING_SEEDS:
                place = record['data'], record['task']
                least = TASKS[record['task']].least
                stages = self.stages.setdefault(place, (Stage(least), Stage(least)))
                stages[record['seed'] >= _FIRST_CONFIRMING].records.setdefault(
                    record['arm'], {})[record['seed']] = record
        self.stages = {place: self.stages[place] for data in DATA for task in TASKS
                       if (place := (data, task)) in self.stages}
        self.searches = {
            (data, task, base): search for data in DATA for task in TASKS for base in BASES
            if task in BASES[base].loss_weight
            and (search := Search(data, task, base, self.counted)).scores}
        self._judge()

    def _counts(self, record: dict[str, Any]) -> bool:
        """Tell whether a result is of today's config, and of the chosen setting."""
        data, task, name, seed = (record[key] for key in ('data', 'task', 'arm', 'seed'))
        setting = record['setting'] and Setting(**record['setting'])
        if data not in DATA or task not in TASKS or name not in {TEACHER, *ARMS, *BASES}:
            return False
        if name != TEACHER and seed not in TUNING_SEEDS:
            arm = ARMS.get(name)
            if arm is None or task not in arm.tasks:
                return False
            chosen = None
            if arm.base:
                chosen = self.settings.get(f'{data}/{task}/{arm.base}') if arm.tau is None else (
                    Setting(arm.tau, BASES[arm.base].loss_weight[task]))
            if setting != chosen:
                return False
        return record['config'] == Cell(data, task, name, seed, setting, Place(None)).config_hash

    def _judge(self) -> None:
        """Judge the comparisons that have enough seeds, all of the study together."""
        pairs = [*((arm, ARMS[arm].against) for arm in ARMS), *ALSO_COMPARED]
        found = [(stage, (arm, other), comparison) for _, stage in self.stages.values()
                 for arm, other in pairs
                 if other and (comparison := stage.compare(arm, other))
                 and comparison.n >= CONFIRMING]
        p_values = correct_by_holm([comparison.p for _, _, comparison in found])
        for (stage, pair, comparison), p in zip(found, p_values):
            stage.verdicts[pair] = Verdict(p, judge(comparison, p, stage.least))


def plain_of(arm: str) -> str | None:
    """Find the plain student at the end of what an arm is compared with; None for that itself."""
    other = ARMS[arm].against
    return other and (plain_of(other) or other)
