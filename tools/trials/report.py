"""The page of results, from the results alone."""
import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from markdown_it import MarkdownIt

from trials.arms import ALSO_COMPARED, ARMS, BASES, REGIMES, REST, VARIANTS
from trials.cells import TEACHER
from trials.comparison import Comparison, Estimate
from trials.evidence import CONFIRMING, Evidence, Stage, plain_of
from trials.plot import plot
from trials.plot_why import plot_why, share
from trials.tasks import TASKS
from trials.tuning import TUNING_SEEDS

_HEADLINE = 'akd-cwd', 'cwd'
_DATA = dict(shapes='Drawn shapes', digits='Digits')
_HTML = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Does it help?</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto }}
th, td {{ padding: .2em .7em; text-align: left; border-bottom: 1px solid #ddd }}
img {{ max-width: 100% }}
</style></head><body>
{body}</body></html>
"""


def write_report(evidence: Evidence, folder: Path) -> None:
    """Write ``results.md``, its plots and ``results.html``, which holds them.

    Args:
        evidence (Evidence): All results.
        folder (Path): Where to write.
    """
    lines = ['# Does it help?', '',
             'Written by `python tools/study.py report` from the results in this folder.', '']
    lines += _answers(evidence)
    lines += _headline(evidence)
    for (data, task), (screening, confirmation) in evidence.stages.items():
        lines += _place(evidence, data, task, screening, confirmation, folder)
    lines += _side_by_side(evidence)
    lines += _why(evidence, folder)
    lines += _search(evidence)
    lines += _cost(evidence)
    text = '\n'.join(lines)
    (folder / 'results.md').write_text(text)
    body = MarkdownIt('commonmark').enable('table').render(text)
    (folder / 'results.html').write_text(_HTML.format(body=re.sub(
        'src="([^"]+)"', lambda found: f'src="{_data_uri(folder / found[1])}"', body)))


def _data_uri(path: Path) -> str:
    return f'data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}'


def _answers(evidence: Evidence) -> list[str]:
    """Answer the questions, where twenty fresh seeds do."""
    lines = []
    for data in _DATA:
        for task in TASKS:
            stages = evidence.stages.get((data, task)) or (
                Stage(TASKS[task].least), Stage(TASKS[task].least))
            title = f'{_DATA[data]}, {TASKS[task].title}'
            lines += [f'- **{title}.** Does AKD beat its base method, CWD? '
                      f'{_answer(*stages, TASKS[task].unit)} '
                      f'Best that was proven: {_best(stages[1], TASKS[task].unit)}']
    return [*lines, '', f'Numbers in brackets are 95 % bootstrap intervals. An answer needs at '
            f'least {CONFIRMING} fresh seeds; [the protocol](../study.md) was fixed before. '
            f'The least effect of interest is '
            f'{" or ".join(f"{task.least} {task.unit}" for task in TASKS.values())}.', '']


def _headline(evidence: Evidence) -> list[str]:
    """Compare what is confirmed in any case, on one line a data set and task, by common seeds."""
    arms = 'plain', 'cwd', 'cwd-norm', 'akd-cwd'
    rows = []
    for (data, task), stages in evidence.stages.items():
        stage = stages[_HEADLINE in stages[1].verdicts]
        comparison = stage.compare(*_HEADLINE)
        if comparison:
            seeds = stage.values('akd-cwd').keys() & stage.values('cwd').keys()
            means = [f'{mean(values[seed] for seed in seeds):.2f}'
                     if seeds <= (values := stage.values(arm)).keys() else '-' for arm in arms]
            verdict = stage.verdicts.get(_HEADLINE)
            rows.append([f'{_DATA[data]}, {TASKS[task].title}, {TASKS[task].unit}', *means,
                         _difference(stage.compare('cwd', 'plain')),
                         _signed(comparison.difference),
                         verdict.words if verdict else 'not known',
                         f'{comparison.n}, {"confirmed" if verdict else "screened"}'])
    return [*_rows(['data and task', *(ARMS[arm].title for arm in arms), 'CWD - plain',
                    'AKD - CWD', 'AKD is', 'seeds'], rows), ''] if rows else []


def _answer(screening: Stage, confirmation: Stage, unit: str) -> str:
    verdict = confirmation.verdicts.get(_HEADLINE)
    comparison = confirmation.compare(*_HEADLINE)
    if verdict is None or comparison is None:
        seeds, screened = (len(stage.values('akd-cwd').keys() & stage.values('cwd').keys())
                           for stage in (confirmation, screening))
        return (f'Not known yet: {seeds} of {CONFIRMING} confirming seeds ({screened} in '
                'screening).')
    answer = ('Yes' if verdict.words.startswith('better') else
              'Undecided' if verdict.words == 'undecided' else 'No')
    return (f'{answer}: {_signed(comparison.difference)} {unit} ({verdict.words}; better in '
            f'{_share(comparison.better)} of {comparison.n} seeds, p = {_p(verdict.p)}).')


def _best(stage: Stage, unit: str) -> str:
    best = stage.best()
    if best is None:
        return 'none.' if stage.verdicts else 'not known yet.'
    other = str(ARMS[best].against)
    comparison = stage.compare(best, other)
    assert comparison is not None
    return (f'{ARMS[best].title} with {mean(stage.values(best).values()):.2f} {unit}, '
            f'{_signed(comparison.difference)} over {ARMS[other].title}.')


def _place(evidence: Evidence, data: str, task: str, screening: Stage, confirmation: Stage,
           folder: Path) -> list[str]:
    title = f'{_DATA[data]}, {TASKS[task].title}'
    unit = TASKS[task].unit
    lines = [f'## {title}', '']
    teachers = [f'{record["metric"]:.2f} {unit}' for record in evidence.teachers
                if (record['data'], record['task']) == (data, task)]
    if teachers:
        lines += [f'Teacher: {", ".join(teachers)}.', '']
    path = folder / f'{data}_{task}.svg'
    if plot(title, unit, screening, confirmation, path):
        lines += [f'![Paired differences to the base]({path.name})', '']
    if confirmation.records:
        lines += ['### Confirmation', '', *_table(confirmation, unit, is_confirmed=True), '']
    if screening.records:
        lines += ['### Screening', '', *_table(screening, unit, is_confirmed=False), '']
        broken = [f'{arm} (seed {seed})' for stage in (screening, confirmation)
                  for arm in stage.arms() for seed, record in stage.records[arm].items()
                  if record['metric'] is None]
        if broken:
            lines += [f'Broke down, counted as 0: {", ".join(broken)}.', '']
    return lines


def _table(stage: Stage, unit: str, is_confirmed: bool) -> list[str]:
    rows = []
    for arm in stage.arms():
        values = list(stage.values(arm).values())
        other = ARMS[arm].against
        comparison = stage.compare(arm, other)
        row = [f'{ARMS[arm].title} (`{arm}`)', str(len(values)), f'{mean(values):.2f}',
               f'{stdev(values):.2f}' if len(values) > 1 else '-',
               f'`{other}`' if other else '-', _difference(comparison),
               _difference(stage.compare(arm, plain_of(arm))),
               _share(comparison.better) if comparison else '-']
        verdict = stage.verdicts.get((arm, other))
        if verdict:
            row += [_p(verdict.p), verdict.words]
        elif is_confirmed:
            row += ['-', f'{comparison.n if comparison else 0} of {CONFIRMING} seeds'
                    if other else '-']
        rows.append(row)
    names = ['arm', 'n', f'mean {unit}', 'deviation', 'B', 'A - B',
             'A - plain', 'P(A > B)']
    return _rows([*names, 'p (Holm)', 'A is'] if is_confirmed else names, rows)


def _side_by_side(evidence: Evidence) -> list[str]:
    """Compare all arms outside the headline on all data sets and tasks."""
    places = [f'{_DATA[data]}, {TASKS[task].title}, {TASKS[task].unit}'
              for data, task in evidence.stages]
    lines = []
    for title, pairs in (
            ('Base methods', [(base, 'cwd') for base in BASES if base != 'cwd']),
            ('Regimes', [(arm, ARMS[arm].against) for arm in REGIMES if ARMS[arm].against]),
            ('Variants of AKD', [pair for pair in ALSO_COMPARED if pair[0] in VARIANTS]),
            ('Other arms', [*((arm, ARMS[arm].against) for arm in REST
                              if arm not in BASES and arm not in VARIANTS),
                            *(pair for pair in ALSO_COMPARED if pair[0] not in VARIANTS)])):
        rows = [[f'{ARMS[arm].title} (`{arm}`)', f'`{other}`', *cells] for arm, other in pairs
                if set(cells := [_best_known(*stages, arm, other)
                                 for stages in evidence.stages.values()]) != {'-'}]
        if rows:
            lines += [f'## {title}', '', 'Differences A - B over common seeds. With fewer than '
                      f'{CONFIRMING} it is screening, which proves nothing.', '',
                      *_rows(['A', 'B', *places], rows), '']
    return lines


def _best_known(screening: Stage, confirmation: Stage, arm: str, other: str | None) -> str:
    verdict = confirmation.verdicts.get((arm, other))
    comparison = (confirmation if verdict else screening).compare(arm, other)
    if comparison is None:
        return '-'
    return (f'{_signed(comparison.difference)}, {comparison.n} seeds'
            f'{f", {verdict.words}" if verdict else ""}')


def _why(evidence: Evidence, folder: Path) -> list[str]:
    """Show what was measured in the headline pair, where both were."""
    found: dict[tuple, dict[str, Any]] = {}
    for record in evidence.explanations:
        place = record['data'], record['task'], record['seed']
        found.setdefault(place, {})[record['arm']] = record
    pairs = {place: [by_arm[arm] for arm in ('cwd', 'akd-cwd')]
             for place, by_arm in sorted(found.items()) if len(by_arm) == 2}
    if not pairs:
        return []
    rows = [[title, ARMS[record['arm']].title, _number(record['metric'], '.2f'),
             _percent(mean(map(share, record['gradients']))),
             *(_percent(_over_time(record, key)) for key in ('draws', 'batches')),
             _percent(record['agreement']), _number(record['divergence'], '.2g')]
            for place, pair in pairs.items() for title in [_title(*place)] for record in pair]
    lines = ['## Why', '', 'Measured in one more training of CWD and of AKD on it; '
             '[the protocol](../study.md#why) tells how.', '',
             *_rows(['data, task, seed', 'arm', 'mIoU or AP', 'share of gradient',
                     'variance over Avatars', 'over batches', 'agreement', 'KL'], rows), '']
    for (data, task, seed), (base, akd) in pairs.items():
        path = folder / f'why_{data}_{task}_{seed}.svg'
        plot_why(base, akd, path)
        lines += [f'### {_title(data, task, seed)}', '', f'![What was measured]({path.name})', '',
                  *_sentences(akd), '']
    return lines


def _title(data: str, task: str, seed: int) -> str:
    return f'{_DATA[data]}, {TASKS[task].title}, seed {seed}'


def _sentences(record: dict[str, Any]) -> list[str]:
    """Say what was measured in the training of AKD."""
    first, last = (record['sigma'][index]['levels'] for index in (0, -1))
    spreads = ', '.join(f'{max(level) / min(level):.2f}' for level in last)
    moved = [abs(new / mean(news) / (old / mean(olds)) - 1)
             for olds, news in zip(first, last) for old, new in zip(olds, news)]
    unit = record['unit']
    number = record['teacher'][-1]['num_avatars']
    names = 'the teacher', 'one Avatar', f'the mean of {number} Avatars'
    scores = '; '.join(f'{name} {row["metric"]:.2f}, {_number(row["nll"], ".4f")} and '
                       f'{_number(row["ece"], ".4f")}'
                       for name, row in zip(names, record['teacher']))
    return [f'- The largest sigma of a level is {spreads} times the smallest. From the first to '
            f"the last measurement, a channel's sigma, relative to the mean over channels, "
            f'changes by {mean(moved):.0%} on average and by {max(moved):.0%} at most.',
            "- The variance of the distillation's gradient, in per cent of its squared norm, is "
            f'{_percent(_over_time(record, "draws"))} over draws of Avatars and '
            f'{_percent(_over_time(record, "batches"))} over batches.',
            f'- Without a student, {unit}, NLL and ECE: {scores}.']


def _over_time(record: dict[str, Any], key: str) -> float | None:
    values = [point[key] for point in record['gradients'] if point[key] is not None]
    return mean(values) if values else None


def _search(evidence: Evidence) -> list[str]:
    rows = []
    for (data, task, base), search in evidence.searches.items():
        chosen = evidence.settings.get(f'{data}/{task}/{base}')
        tau = chosen.tau if chosen else None
        rows.append([
            f'{_DATA[data]}, {TASKS[task].title}', f'`{base}`', str(len(search.scores)),
            '-' if tau is None else f'{tau:g}' , f'{chosen.loss_weight:g}' if chosen else
            'searching', f'{search.scores[chosen]:.2f} {TASKS[task].unit}'
            if chosen in search.scores else '-'])
    if not rows:
        return []
    return ['## Settings found', '',
            f'Mean of seeds {" and ".join(map(str, TUNING_SEEDS))}, which nothing else uses.', '',
            *_rows(['data and task', 'base', 'settings tried', 'tau', 'weight', 'mean'], rows), '']


def _cost(evidence: Evidence) -> list[str]:
    lines = ['## Cells', '']
    if evidence.counted:
        seconds = [record['seconds'] for record in evidence.counted if record['arm'] != TEACHER]
        total = sum(record['seconds'] for record in evidence.counted) / 3600
        lines += [f'{len(evidence.counted)} cells, teachers and searches included, took '
                  f'{total:.1f} hours of training'
                  f'{f"; the median student {median(seconds):.0f} s" if seconds else ""}.', '']
        versions = Counter(', '.join(f'{name} {version}' for name, version in
                                     record['versions'].items()) + f' on {record["device"]}'
                           for record in evidence.counted)
        commits = Counter(record['commit'] for record in evidence.counted)
        teachers = Counter(
            f'{_DATA[record["data"]]}, {TASKS[record["task"]].title}: taught by '
            f'{" and ".join(record.get("teachers", ["a teacher that was not kept"]))}'
            for record in evidence.counted if record['setting'])
        lines += [f'- {text}: {number} cells' for text, number in versions.items()]
        lines += [f'- {text}: {number} cells' for text, number in sorted(teachers.items())]
        lines += [f'- commit {text}: {number} cells' for text, number in commits.items()]
        lines += ['']
    else:
        lines += ['No results yet.', '']
    if evidence.outdated:
        outdated = Counter(f'{record["data"]} {record["task"]} `{record["arm"]}`'
                           for record in evidence.outdated)
        lines += ['Outdated, of another config or setting than today, and not counted: ' +
                  ', '.join(f'{text} ({number})' for text, number in outdated.items()) + '.', '']
    return lines


def _rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(cells)} |' for cells in (names, ['---'] * len(names), *rows)]


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else f'{value:{form}}'


def _percent(value: float | None) -> str:
    return _number(value, '.1%')


def _difference(comparison: Comparison | None) -> str:
    return _signed(comparison.difference) if comparison else '-'


def _signed(estimate: Estimate) -> str:
    return f'{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]'


def _share(estimate: Estimate) -> str:
    return f'{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]'


def _p(p: float) -> str:
    return f'{p:.4f}' if p >= 0.001 else '< 0.001'
