"""The study: cells run once, whatever ends them, and its report says what the results say."""
import json
import math
import multiprocessing
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from rich.console import Console

import make_shapes as drawing_tool
import study
import trials.cells
import trials.explanation
import trials.schedule
import trials.training
from mmakd.utils.errors import ConfigError
from trials.arms import ARMS, BASES, REGIMES
from trials.cells import Cell, Place, Setting
from trials.comparison import compare, correct_by_holm, judge
from trials.evidence import Evidence
from trials.explanation import PAIR
from trials.plan import Plan, list_items, write_settings
from trials.report import write_report
from trials.results import WHY, Results
from trials.schedule import train_all
from trials.tasks import DATA, DRAWN, TASKS
from trials.teacher_maps import fingerprint
from trials.training import prepare
from trials.tuning import TUNING_SEEDS, Search

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict]]:
    """Run cells of two iterations on shapes, and return all results."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setattr(trials.schedule, '_PAUSE', 0.05)
    before = signal.getsignal(signal.SIGTERM)

    def run_study(*arguments: object, iters: int = 2, out: str = 'out', command: str = 'run'
                  ) -> list[dict]:
        study.main([command, '--data', 'shapes', '--out', out, '--work-dir', f'{out}/work',
                    '--iters', str(iters), *map(str, arguments)])
        return lines(Path(out))

    yield run_study
    signal.signal(signal.SIGTERM, before)


def lines(out: Path) -> list[dict]:
    """Read all lines, doubles too."""
    return [json.loads(line) for path in sorted(out.glob('*.jsonl'))
            for line in path.read_text().splitlines()]


def apart(target: Callable, *args: object) -> multiprocessing.Process:
    """Start a process that leads a group of its own."""
    def lead() -> None:
        os.setsid()
        target(*args)
    process = multiprocessing.get_context('fork').Process(target=lead)
    process.start()
    return process


def test_trains_what_is_missing(run, workspace):
    first = run('--arms', 'plain', 'cwd-tau4', '--seeds', '0')
    assert sorted((line['task'], line['arm']) for line in first) == sorted(
        product(TASKS, ['teacher', 'plain', 'cwd-tau4']))
    for line in first:
        assert line['iters'] == 2
        assert line['unit'] == TASKS[line['task']].unit
        assert line['loss'] > 0
        assert 0 <= line['metric'] <= 100
        assert line['setting'] == (dict(tau=4.0, loss_weight=BASES['cwd'].loss_weight[
            line['task']]) if line['arm'] == 'cwd-tau4' else None)
    assert run('--arms', 'plain', 'cwd-tau4', '--seeds', '0') == first
    # A deleted cell is trained again, alone, with the same result.
    path = Path('out/shapes_seg.jsonl')
    kept = [line for line in path.read_text().splitlines(True) if '"cwd-tau4"' not in line]
    path.write_text(''.join(kept))
    again = run('--arms', 'plain', 'cwd-tau4', '--seeds', '0')
    assert len(again) == len(first)
    for line, other in zip(*(sorted(found, key=lambda line: (line['task'], line['arm']))
                             for found in (again, first))):
        assert (line['metric'], line['loss'], line['config']) == (
            other['metric'], other['loss'], other['config'])
    # A result names the weights that it learned from, the only ones that are kept.
    weights = {fingerprint(path): path.name for path in Path('out/teachers').iterdir()}
    assert [(line['task'], weights[line['teachers'][0]].split('_')[1]) for line in again
            if line['arm'] == 'cwd-tau4'] == [(task, task) for task in TASKS]
    assert all('teachers' not in line for line in again if line['arm'] != 'cwd-tau4')
    assert not list(workspace.rglob('out/work/**/iter_*.pth'))


def test_goes_on_after_a_kill(run, monkeypatch):
    monkeypatch.setattr(trials.cells, '_CHECKPOINT_INTERVAL', 2)
    arguments = '--arms', 'plain', '--task', 'seg', '--seeds', '3'
    process = apart(lambda: run(*arguments, iters=30))
    deadline = time.monotonic() + 60
    while not (found := list(Path('out').rglob('iter_*.pth'))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert lines(Path('out')) == []
    folder = found[0].parent
    build_runner = trials.training.build_runner

    def build_and_note(cfg):
        Path('begun').write_text(f'{cfg.get("resume")} {cfg.get("load_from")}')
        return build_runner(cfg)

    monkeypatch.setattr(trials.training, 'build_runner', build_and_note)
    resumed, = run(*arguments, iters=30)
    assert re.fullmatch(rf'True .*{folder}/iter_\d+.pth', Path('begun').read_text())
    unbroken, = run(*arguments, iters=30, out='unbroken')
    assert Path('begun').read_text() in ('None None', 'False None')
    assert not folder.exists()  # the resumed training was in it and has finished
    for key in 'metric', 'loss', 'iters', 'config':
        assert resumed[key] == unbroken[key], key


def test_a_line_that_a_kill_cut_off_is_no_result(tmp_path):
    results = Results(tmp_path)
    record = dict(data='shapes', task='seg', arm='plain', seed=0, setting=None)
    results.append(record)
    path = tmp_path / 'shapes_seg.jsonl'
    with path.open('a') as file:
        file.write('{"data": "sha')
    assert results.read() == [record]
    results.append({**record, 'seed': 1})
    assert [line['seed'] for line in results.read()] == [0, 1]
    path.write_text('nonsense\n' + path.read_text())
    with pytest.raises(ConfigError, match=r'shapes_seg.jsonl:1: is no result'):
        results.read()


def test_why_measures_the_pair(run, monkeypatch):
    monkeypatch.setattr(trials.explanation, '_NUM_BATCHES', 2)
    folder = Path('out')
    with pytest.raises(SystemExit, match=r'shapes seg: the setting of cwd is not chosen yet, .* '
                       'run python tools/study.py run --data shapes --task seg --arms cwd akd-cw'):
        run(command='why')
    assert lines(folder) == []
    folder.mkdir()
    write_settings(folder, {f'shapes/{task}/cwd': CHOSEN for task in TASKS})
    run('--arms', 'cwd-tau4', '--task', 'det', '--seeds', '0')  # for its teacher
    cells = {line['arm']: line for line in run(
        '--arms', 'cwd', 'akd-cwd', '--task', 'seg', '--seeds', '0') if line['task'] == 'seg'}
    run(command='why')
    text = (folder / 'why.jsonl').read_text()
    measured = [json.loads(line) for line in text.splitlines()]
    assert [(line['task'], line['arm']) for line in measured] == list(product(TASKS, PAIR))
    for line in measured:
        if line['task'] == 'seg':  # the same result as without the hook
            for name in 'metric', 'loss', 'config', 'setting', 'iters':
                assert line[name] == cells[line['arm']][name], name
        assert [point['iter'] for point in line['gradients']] == [0, 1]
        is_akd = line['arm'] == 'akd-cwd'
        assert all((point['draws'] > 0) == is_akd for point in line['gradients'])
        assert [point['iter'] for point in line['sigma']] == ([0] if is_akd else [])
        assert line['divergence'] > 0
        assert [row['num_avatars'] for row in line.get('teacher', [])] == (
            [0, 1, 8] if is_akd else [])
    for line in measured[1::2]:
        teacher = next(found for found in lines(folder)
                       if (found['arm'], found['task']) == ('teacher', line['task']))
        assert line['teacher'][0]['metric'] == pytest.approx(teacher['metric'], rel=1e-3)
    assert [len(level) for level in measured[1]['sigma'][0]['levels']] == [64] * 3
    assert [len(level) for level in measured[3]['sigma'][0]['levels']] == [7]
    run(command='why')
    assert (folder / 'why.jsonl').read_text() == text
    # Only teachers' checkpoints are kept.
    assert not list(folder.rglob('why/**/*.pth'))


def test_processes_share_the_cells(run):
    prepare()
    arguments = '--arms', 'plain', '--task', 'seg', '--seeds', '0-3'
    processes = [apart(run, *arguments) for _ in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(line['seed'] for line in lines(Path('out'))) == [0, 1, 2, 3]


def test_a_cell_that_another_process_has_just_finished_is_left(run):
    plan = Plan(list_items(['plain'], [0], ['seg'], ['shapes']), Results(Path('out')),
                Place(work=Path('out/work'), iters=2))
    found = run('--arms', 'plain', '--task', 'seg', '--seeds', '0')
    assert plan.num_missing() == 1  # it has not read the results since
    assert train_all(plan, Console(quiet=True)) == []
    assert lines(Path('out')) == found


def test_shards_are_a_partition(run, monkeypatch):
    plans = []
    monkeypatch.setattr(study, 'train_all', lambda plan, console: plans.append(plan) or [])
    for part in 1, 2, 3:
        run('--shard', f'{part}/3', '--seeds', '0-2')
    shards = [set(plan.items) for plan in plans]
    assert sum(map(len, shards)) == len(set.union(*shards))
    assert set.union(*shards) == set(list_items(list(ARMS), range(3), list(TASKS), ['shapes']))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--arms', 'akd-cdw'], "--arms='akd-cdw': unknown arm; did you mean 'akd-cwd'"),
    (['--data-root', 'elsewhere'], 'data=shapes: elsewhere/shapes/coco is not there or '
     r'incomplete; run python tools/make_shapes.py'),
])
def test_says_what_is_wrong(run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
    assert lines(Path('out')) == []


@pytest.mark.parametrize('arguments', [['--seeds', '4-2'], ['--shard', '3/2'], ['--iters', '0'],
                                       ['--data', 'coco']])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit, match='2'):
        study.main(['run', *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_help_lists_the_arms(capsys):
    with pytest.raises(SystemExit, match='0'):
        study.main(['--help'])
    text = capsys.readouterr().out
    for name, arm in ARMS.items():
        assert re.search(rf'^  {name} +{re.escape(arm.title)}$', text, re.MULTILINE)


# The best temperature, and the best weight in steps from the start; all that is tried.
@pytest.mark.parametrize(('tau', 'power', 'powers'), [
    (1.0, 0, (-1, 0, 1)), (4.0, 1, (-1, 0, 1, 2)), (8.0, -1, (-2, -1, 0, 1)),
    (2.0, 9, (-1, 0, 1, 2, 3)), (2.0, -9, (-3, -2, -1, 0, 1))])
def test_search(tau, power, powers):
    start = BASES['cwd'].loss_weight['seg']
    records: list[dict] = []
    steps, best = Search('shapes', 'seg', 'cwd', records).step()
    while best is None:
        assert steps
        for setting, seed in product(steps, TUNING_SEEDS):
            place = math.log(setting.loss_weight / start, 3)
            metric = 50 - abs(math.log2(setting.tau / tau)) - 0.1 * abs(place - power) + seed / 10
            records.append(dict(data='shapes', task='seg', arm='cwd', seed=seed,
                                setting=setting._asdict(), metric=metric))
        steps, best = Search('shapes', 'seg', 'cwd', records).step()
    assert steps == []
    assert best.tau == tau
    assert best.loss_weight == pytest.approx(start * 3.0**max(-3, min(3, power)), rel=1e-5)
    tried = {(line['setting']['tau'], round(math.log(line['setting']['loss_weight'] / start, 3)))
             for line in records}
    assert tried == {(t, 0) for t in BASES['cwd'].taus} | {(tau, step) for step in powers}
    # Half a pair of seeds, other arms, and results of another config tell nothing.
    assert Search('shapes', 'seg', 'cwd', records[::2]).step()[1] is None
    assert Search('shapes', 'det', 'cwd', records).step()[1] is None
    assert Search('shapes', 'seg', 'cwd', records, lambda record: False).step()[1] is None


def test_a_setting_that_broke_down_is_the_worst():
    records = [dict(data='shapes', task='seg', arm='mse', seed=seed, metric=metric,
                    setting=dict(tau=None, loss_weight=weight))
               for weight, metric in ((1.0, 40.0), (3.0, None), (0.333333, 39.0))
               for seed in TUNING_SEEDS]
    assert Search('shapes', 'seg', 'mse', records).step() == ([], Setting(None, 1.0))


def settings_of(task: str, name: str) -> Setting | None:
    arm = ARMS[name]
    if arm.base is None:
        return None
    base = BASES[arm.base]
    return Setting(arm.tau or (4.0 if base.taus else None), base.loss_weight[task])


@pytest.mark.parametrize('task', TASKS)
def test_every_arm_takes_a_step(task, workspace):
    prepare()
    with DefaultScope.overwrite_default_scope(f'mm{task}'):
        batch = None
        for name, arm in ARMS.items():
            if task not in arm.tasks:
                continue
            for data in DATA:
                cfg = Cell(data, task, name, 0, settings_of(task, name), Place(None)).config()
                assert cfg.train_cfg.max_iters == round(
                    TASKS[task].iters * (TASKS[task].time_ratio if arm.same_time else arm.length))
                assert cfg.train_dataloader.dataset.get('indices', DRAWN[data]['count'][0]) == (
                    DRAWN[data]['count'][0] * arm.images)
                assert [step.prob for step in cfg.train_dataloader.dataset.pipeline
                        if step.type == 'RandomFlip'] == [0.5 if data == 'shapes' else 0.0]
            # The regimes have the models of other arms.
            if name in REGIMES:
                continue
            cfg = Cell('shapes', task, name, 0, settings_of(task, name),
                       Place(workspace / 'data')).config()
            if batch is None:
                batch = next(iter(Runner.build_dataloader(
                    dict(cfg.train_dataloader, batch_size=2), seed=0)))
            torch.manual_seed(0)
            model = MODELS.build(cfg.model).train()
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
            distilled = [value for key, value in losses.items() if key.startswith('distill.loss')]
            assert len(distilled) == (len(arm.teachers) if arm.base else 0), name
            assert all(value > 0 for value in distilled), name
            model.parse_losses(losses)[0].backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            assert gradients
            assert all(gradient.isfinite().all() for gradient in gradients), name


def test_every_arm_leads_to_a_plain_student():
    for name, arm in ARMS.items():
        seen = [name]
        while (other := ARMS[seen[-1]].against):
            assert other not in seen
            assert set(arm.tasks) <= set(ARMS[other].tasks)
            seen.append(other)
        assert ARMS[seen[-1]].base is None
        assert ARMS[seen[-1]].images == arm.images
        assert arm.same_time or ARMS[seen[-1]].length == arm.length


@pytest.mark.parametrize('data', DATA)
def test_hashes_without_data_are_those_of_the_data_as_drawn_by_default(data, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['make_shapes.py', '--data', data])
    args = drawing_tool.parse_args()
    assert DRAWN[data] == dict(version=drawing_tool.find_drawing(data).version,
                               size=[args.size[0], args.size[-1]], count=list(args.count),
                               seed=args.seed)


def test_hash_is_of_the_config_and_the_data(workspace):
    def config_hash(arm: str = 'cwd', setting: Setting | None = CHOSEN, place: Path | None = None,
                    seed: int = 0, iters: int | None = None) -> str:
        return Cell('shapes', 'seg', arm, seed, setting, Place(place, iters=iters)).config_hash

    manifest = dict(DRAWN['shapes'], style='shapes')
    path = workspace / 'other/shapes/cityscapes/shapes.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    assert config_hash() == config_hash(seed=1) == config_hash(place=workspace / 'other')
    path.write_text(json.dumps({**manifest, 'seed': 1}))
    hashes = [config_hash(), config_hash('akd-cwd'), config_hash(setting=Setting(2.0, WEIGHT)),
              config_hash(iters=2), config_hash(place=workspace / 'data')]
    assert len(set(hashes)) == len(hashes)
    trials.cells._compared_config.cache_clear()
    assert config_hash(place=workspace / 'other') not in hashes


WEIGHT = 15.0
CHOSEN = Setting(4.0, WEIGHT)
SEEDS = range(1000, 1020)


def write_results(out: Path, metrics: dict[str, dict[int, float | None]], config: str | None = None
                  ) -> Results:
    """Write results of segmentation on shapes, of today's configs or of another."""
    results = Results(out)
    out.mkdir(exist_ok=True)
    write_settings(out, {f'shapes/seg/{base}': CHOSEN for base in ('cwd', 'cwd-norm')})
    for arm, by_seed in metrics.items():
        setting = CHOSEN if ARMS[arm].base else None
        current = Cell('shapes', 'seg', arm, 0, setting, Place(None)).config_hash
        for seed, metric in by_seed.items():
            results.append(dict(
                data='shapes', task='seg', arm=arm, seed=seed, metric=metric, unit='mIoU',
                setting=setting and setting._asdict(), loss=1.0, seconds=60.0, iters=400,
                config=config or current, commit='0123456789ab', device='cpu',
                versions=dict(torch='2.13.0')))
    return results


def draw(seeds: Iterable[int]) -> dict[str, dict[int, float]]:
    """Draw metrics that share what a seed does, as those of paired arms do."""
    found: dict[str, dict[int, float]] = {'plain': {}, 'cwd': {}, 'akd-cwd': {}, 'cwd-sigma': {}}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        common = rng.normal(0, 2)
        for arm, gain in zip(found, (0, 6, 6.9, 6.1)):
            found[arm][seed] = round(50 + gain + common + rng.normal(0, 0.4), 2)
    return found


def read_table(page: str, stage: str) -> dict[str, dict[str, str]]:
    """Read the first table of a stage, by arm."""
    text = page.split(f'### {stage}\n')[1]
    head, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')]
                      for line in text.strip().split('\n\n')[0].splitlines()]
    return {re.search('`(.*)`', row[0])[1]: dict(zip(head, row)) for row in rows}


def headline(page: str) -> list[str]:
    """Read the lines of the first table."""
    return re.search(r'^\| data and task \|.*?(?=\n\n)', page, re.DOTALL | re.MULTILINE)[0
        ].splitlines()


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r'[-+]?\d+(?:\.\d+)?', text)]


def exact_p(differences: list[float]) -> float:
    """Count, in hundredths, the signs that move the sum at least as far from zero."""
    counts = {0: 1}
    steps = [round(100 * difference) for difference in differences]
    for step in steps:
        counts = {total: counts.get(total - step, 0) + counts.get(total + step, 0)
                  for total in {old + sign * step for old in counts for sign in (-1, 1)}}
    return sum(count for total, count in counts.items() if abs(total) >= abs(sum(steps))
               ) / 2**len(steps)


def test_report_states_the_statistics(tmp_path):
    screening, confirmation = draw(range(5)), draw(SEEDS)
    results = write_results(tmp_path, {arm: screening[arm] | confirmation[arm]
                                       for arm in screening})
    write_report(Evidence(results), tmp_path)
    page = (tmp_path / 'results.md').read_text()
    p_values = {}
    for stage, metrics in ('Screening', screening), ('Confirmation', confirmation):
        table = read_table(page, stage)
        assert table.keys() == metrics.keys()
        for arm, row in table.items():
            values = list(metrics[arm].values())
            assert int(row['n']) == len(values)
            assert numbers(row['mean mIoU']) == [round(sum(values) / len(values), 2)]
            assert numbers(row['deviation']) == [round(statistics.stdev(values), 2)]
            if arm == 'plain':
                assert row['A - B'] == '-'
                continue
            other = 'plain' if arm == 'cwd' else 'cwd'
            assert row['B'] == f'`{other}`'
            for column, reference in ('A - B', other), ('A - plain', 'plain'):
                pairs = [value - metrics[reference][seed]
                         for seed, value in metrics[arm].items()]
                mean, low, high = numbers(row[column])
                assert mean == pytest.approx(sum(pairs) / len(pairs), abs=0.006)
                # The bootstrap by hand: a fortieth of the means lies beyond either end. Few
                # seeds have few means, so an end is one of them.
                means = np.random.default_rng(7).choice(pairs, (20_000, len(pairs))).mean(1)
                for end, below in (low, means - low), (high, high - means):
                    assert (below < -0.006).mean() < 0.029, end
                    assert (below < 0.006).mean() > 0.021, end
            pairs = [value - metrics[other][seed] for seed, value in metrics[arm].items()]
            wins = sum(pair > 0 for pair in pairs) + sum(pair == 0 for pair in pairs) / 2
            assert numbers(row['P(A > B)'])[0] == round(100 * wins / len(pairs))
            p_values[arm] = exact_p(pairs)
    # Holm's definition: of m values the k-th smallest times m + 1 - k, never below one before.
    corrected, largest = {}, 0.0
    for k, (arm, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1, p * (len(p_values) - k)))
        corrected[arm] = largest
    assert corrected['cwd-sigma'] > 0.001  # not all are tiny
    for arm, p in corrected.items():
        row = read_table(page, 'Confirmation')[arm]
        stated = row['p (Holm)']
        assert p < 0.002 if stated == '< 0.001' else float(stated) == pytest.approx(
            p, abs=0.01), arm
    assert read_table(page, 'Confirmation')['akd-cwd']['A is'] == 'better, at least of interest'
    row = read_table(page, 'Confirmation')
    assert [cell.strip() for cell in headline(page)[2].strip('|').split('|')] == [
        'Drawn shapes, segmentation, mIoU', row['plain']['mean mIoU'], row['cwd']['mean mIoU'],
        '-', row['akd-cwd']['mean mIoU'], row['cwd']['A - B'], row['akd-cwd']['A - B'],
        row['akd-cwd']['A is'], '20, confirmed']
    assert 'p (Holm)' not in read_table(page, 'Screening')['akd-cwd']


def test_report_compares_side_by_side(tmp_path):
    drawn = {arm: draw(range(5))[arm] | draw(SEEDS)[arm] for arm in ('cwd', 'akd-cwd')}
    screened = {seed: value for seed, value in drawn['cwd'].items() if seed < 5}
    akd = drawn['akd-cwd']
    results = write_results(tmp_path, {
        **drawn,
        'cwd-norm': {seed: value - 2 for seed, value in screened.items()},
        'cwd-long': {seed: value + 5 for seed, value in screened.items()},
        'akd-cwd-long': {seed: value + 4 for seed, value in screened.items()},
        'upstream': {seed: value + (1 if seed < 5 else -0.25) for seed, value in akd.items()},
        # Two confirming seeds are not enough.
        'akd-cwd-k4': {seed: value + (0.5 if seed < 5 else 2) for seed, value in akd.items()
                       if seed < 1002}})
    write_report(Evidence(results), tmp_path)
    page = (tmp_path / 'results.md').read_text()
    sections = {section.split('\n')[0]: section.splitlines()[6:]
                for section in page.split('\n## ')[1:]}
    assert sections['Base methods'] == [
        '| normalised CWD (`cwd-norm`) | `cwd` | -2.00 [-2.00, -2.00], 5 seeds |']
    assert sections['Regimes'] == ['| AKD on CWD, three times the schedule (`akd-cwd-long`) | '
                                   '`cwd-long` | -1.00 [-1.00, -1.00], 5 seeds |']
    assert sections['Variants of AKD'] == [
        '| AKD on CWD, 4 upstream Avatars (`upstream`) | `akd-cwd` | -0.25 [-0.25, -0.25], '
        '20 seeds, worse, by less than is of interest |',
        '| AKD on CWD, K = 4 (`akd-cwd-k4`) | `akd-cwd` | +0.50 [+0.50, +0.50], 5 seeds |']


def answer(out: Path) -> str:
    write_report(Evidence(Results(out)), out)
    return next(line for line in (out / 'results.md').read_text().splitlines()
                if line.startswith('- **Drawn shapes, segmentation.**'))


def test_screening_is_no_answer(tmp_path):
    write_results(tmp_path, draw(range(5)))
    line = answer(tmp_path)
    assert line.endswith('Not known yet: 0 of 20 confirming seeds (5 in screening). '
                         'Best that was proven: not known yet.')
    # One seed is missing of one arm: 19 pairs.
    write_results(tmp_path, {arm: {seed: metric for seed, metric in found.items()
                                   if (arm, seed) != ('cwd', 1007)}
                             for arm, found in draw(SEEDS).items()})
    line = answer(tmp_path)
    assert 'Not known yet: 19 of 20 confirming seeds (5 in screening)' in line
    write_results(tmp_path, {'cwd': {1007: draw(SEEDS)['cwd'][1007]}})
    confirmation = draw(SEEDS)
    gain = np.mean([confirmation['akd-cwd'][seed] - confirmation['cwd'][seed] for seed in SEEDS])
    best = np.mean(list(confirmation['akd-cwd'].values()))
    line = answer(tmp_path)
    assert f'Yes: {gain:+.2f} [' in line
    assert 'of 20 seeds, p ' in line
    assert f'Best that was proven: AKD on CWD with {best:.2f} mIoU, {gain:+.2f} [' in line


@pytest.mark.parametrize(('gain', 'spread', 'word', 'best'), [
    (0.02, 0.3, 'No: ', 'CWD'), (-1, 0.3, 'No: ', 'CWD'), (0.3, 2, 'Undecided: ', 'CWD'),
    (1, 0.3, 'Yes: ', 'AKD on CWD')])
def test_answers(tmp_path, gain, spread, word, best):
    rng = np.random.default_rng(0)
    noise = rng.permuted(np.linspace(-spread, spread, 20))
    metrics = {'plain': {seed: 44.0 + rng.normal(0, 0.1) for seed in SEEDS},
               'cwd': dict.fromkeys(SEEDS, 50.0),
               'akd-cwd': {seed: 50 + gain + add for seed, add in zip(SEEDS, noise)}}
    write_results(tmp_path, metrics)
    line = answer(tmp_path)
    assert f'CWD? {word}{gain:+.2f}' in line
    assert f'Best that was proven: {best} with' in line


def test_results_of_other_configs_are_listed_alone(tmp_path):
    write_results(tmp_path, draw(range(5)))
    before = answer(tmp_path)
    write_results(tmp_path, {'plain': {7: 99.0}, 'akd-cwd': {8: 99.0}}, config='0' * 12)
    assert answer(tmp_path) == before
    page = (tmp_path / 'results.md').read_text()
    assert '99.0' not in page
    assert 'shapes seg `plain` (1), shapes seg `akd-cwd` (1)' in page
    # With another setting chosen, all results of the base are of another config.
    write_settings(tmp_path, {'shapes/seg/cwd': Setting(2.0, WEIGHT)})
    answer(tmp_path)
    assert read_table((tmp_path / 'results.md').read_text(), 'Screening').keys() == {'plain'}


def test_a_training_that_broke_down_counts_as_zero(tmp_path):
    metrics = draw(range(5))
    metrics['akd-cwd'][3] = None
    write_results(tmp_path, metrics)
    answer(tmp_path)
    page = (tmp_path / 'results.md').read_text()
    mean = sum(metric or 0 for metric in metrics['akd-cwd'].values()) / 5
    assert numbers(read_table(page, 'Screening')['akd-cwd']['mean mIoU']) == [round(mean, 2)]
    assert 'Broke down, counted as 0: akd-cwd (seed 3).' in page


def test_report_is_one_page_and_the_same_again(tmp_path):
    write_results(tmp_path, draw([*range(5), *SEEDS]))
    study.main(['report', '--out', str(tmp_path)])
    names = 'results.md', 'results.html', 'shapes_seg.svg'
    first = {name: (tmp_path / name).read_bytes() for name in names}
    page = first['results.html'].decode()
    assert re.findall(r'<img src="(.{26})', page) == ['data:image/svg+xml;base64,']
    assert not re.search(r'(src|href)="http|<script|<link', page)
    assert '<table>' in page
    assert len(page) < 1_000_000
    assert b'akd-cwd' in first['shapes_seg.svg']
    study.main(['report', '--out', str(tmp_path)])
    assert {name: (tmp_path / name).read_bytes() for name in names} == first


def write_explanation(out: Path, arm: str, **changes: object) -> None:
    gradients = [dict(iter=step, distill=3.0, task=step + 1.0, draws=draws, batches=0.8)
                 for step, draws in ((0, 0.02), (2, 0.04))]
    sigma = [dict(iter=0, levels=[[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]),
             dict(iter=50, levels=[[2.0, 4.0, 6.0], [1.0, 1.0, 4.0]])]
    teacher = [dict(num_avatars=number, nll=number / 10, ece=0.01, metric=60.0 - number)
               for number in (0, 1, 8)]
    Results(out, WHY).append(dict(
        data='shapes', task='seg', arm=arm, seed=0, setting=CHOSEN._asdict(), metric=50.0,
        unit='mIoU', config=Cell('shapes', 'seg', arm, 0, CHOSEN, Place(None)).config_hash,
        sigma=sigma, gradients=gradients, agreement=0.75, divergence=0.123, teacher=teacher)
        | changes)


def test_report_shows_what_was_measured(tmp_path):
    write_results(tmp_path, draw(range(5)))

    def section() -> str | None:
        write_report(Evidence(Results(tmp_path)), tmp_path)
        page = (tmp_path / 'results.md').read_text()
        found = re.search(r'^## Why\n(.*?)^## ', page, re.MULTILINE | re.DOTALL)
        return found and found[1]

    write_explanation(tmp_path, 'akd-cwd')
    assert section() is None  # of one arm
    write_explanation(tmp_path, 'cwd', config='0' * 12)
    assert section() is None  # of another config
    write_explanation(tmp_path, 'cwd', metric=49.0, agreement=None, sigma=[])
    page = section()
    rows = [line for line in page.splitlines() if line.startswith('| Drawn')]
    # 3 / (3 + 1) and 3 / (3 + 3).
    assert rows == [
        '| Drawn shapes, segmentation, seed 0 | CWD | 49.00 | 62.5% | 3.0% | 80.0% | - | 0.12 |',
        '| Drawn shapes, segmentation, seed 0 | AKD on CWD | 50.00 | 62.5% | 3.0% | 80.0% | 75.0% '
        '| 0.12 |']
    assert '3.00, 4.00 times the smallest' in page
    # The last channel, from 1 to 4 / 2; two others halve; three stay.
    assert 'by 33% on average and by 100% at most' in page
    assert 'squared norm, is 3.0% over draws of Avatars and 80.0% over batches' in page
    assert ('mIoU, NLL and ECE: the teacher 60.00, 0.0000 and 0.0100; one Avatar 59.00, 0.1000 '
            'and 0.0100; the mean of 8 Avatars 52.00, 0.8000 and 0.0100.') in page
    assert '](why_shapes_seg_0.svg)' in page
    assert (tmp_path / 'results.html').read_text().count('data:image/svg+xml') == 2


def test_report_of_nothing(tmp_path):
    study.main(['report', '--out', str(tmp_path)])
    page = (tmp_path / 'results.md').read_text()
    assert page.count('Not known yet: 0 of 20 confirming seeds (0 in screening)') == 4
    assert 'No results yet.' in page


@pytest.mark.parametrize(('differences', 'p', 'words'), [
    ([0.6, 0.7, 0.8], 0.01, 'better, at least of interest'), ([0.2, 0.7, 0.8], 0.01, 'better'),
    ([0.1, 0.2, 0.3], 0.01, 'better, by less than is of interest'),
    ([0.6, 0.7, 0.8], 0.06, 'undecided'), ([0.1, 0.2, 0.3], 0.06, 'no difference of interest'),
    ([-0.1, 0, 0.2], 0.9, 'no difference of interest'), ([-0.8, 0, 0.2], 0.9, 'undecided'),
    ([-0.8, -0.7, -0.6], 0.01, 'worse, at least of interest')])
def test_judge(differences, p, words):
    comparison = compare(dict(enumerate(differences)), dict.fromkeys(range(3), 0.0))
    assert judge(comparison, p, 0.5) == words


def test_p_is_exact_for_few_seeds():
    # All five signs agree: 2 of 32. A tie counts one half.
    found = compare({0: 1, 1: 2, 2: 3, 3: 1.5, 4: 2.5, 9: 0}, dict.fromkeys(range(5), 0.0))
    assert (found.n, found.p) == (5, pytest.approx(2 / 32))
    assert compare({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.0}).better.value == 0.75
    assert compare({0: 1.0}, {0: 0.0}) is None
    assert correct_by_holm([]) == []
    # Times 3, 1, 2 and 4; none below a smaller one's.
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_committed_report_is_that_of_the_committed_results(tmp_path):
    write_report(Evidence(Results(ROOT / 'docs/study')), tmp_path)
    page = (tmp_path / 'results.md').read_text()
    assert page == (ROOT / 'docs/study/results.md').read_text()
