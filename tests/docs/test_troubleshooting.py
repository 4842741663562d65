"""docs/troubleshooting.md has a row for every message in the source, and no other."""
import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmakd.avatars import DropoutPerturbation
from mmakd.checks.data_files import check_data
from mmakd.distillers import AvatarDistiller
from mmakd.hooks import DistillationScheduleHook, PerturbationHook
from mmakd.utils.build import build
from mmakd.utils.checkpoint import find_file, read_state_dict
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model

from .messages import ROOT, find_messages, python_messages

PAGE = (ROOT / 'docs/troubleshooting.md').read_text()
HEADER = '| message | cause | fix |'


def read_rows() -> list[tuple[str, str, str]]:
    """Read message, cause and fix of every row in the tables of messages."""
    rows, in_table = [], False
    for line in PAGE.splitlines():
        in_table = line == HEADER or (in_table and line.startswith('|'))
        if in_table and line.startswith('| `'):
            cells = re.split(r' (?<!\\)\| ', line.removeprefix('| ').removesuffix(' |'))
            message, cause, fix = (cell.replace('\\|', '|') for cell in cells)
            rows.append((message.removeprefix('`').removesuffix('`'), cause, fix))
    return rows


MESSAGES = [message for message, _, _ in read_rows()]


def test_page_has_every_message_once_and_no_other():
    found = find_messages()
    add = [f'{", ".join(found[message])}\n    `{message}`'
           for message in found if message not in MESSAGES]
    remove = [f'`{message}`' for message in MESSAGES if message not in found]
    assert not add and not remove, '\n'.join(
        ['', 'rows to add to docs/troubleshooting.md:', *add, 'rows to remove:', *remove])
    assert len(set(MESSAGES)) == len(MESSAGES)


def test_every_row_has_a_cause_and_a_fix():
    assert not [message for message, cause, fix in read_rows() if not cause or not fix]


def test_example_is_what_the_tools_print(model):
    with pytest.raises(ConfigError) as caught:
        model('det', **{'model.distill.fpn.tap': 'nek',
                        'model.distill.fpn.loss.num_avatars': 0})
    example = '\n'.join(f'    {line}' for line in f'error: {caught.value}'.splitlines())
    assert f'\n{example}\n' in PAGE


def test_messages_are_followed_to_their_texts():
    source = """
_HINT = 'do this'
def _text(key):
    return f'{key}: wrong; {_HINT}'
def _warn(reason):
    print_log(f'Careful: {reason}', level=logging.WARNING)
def check(key, problems, findings):
    'Says: nothing.'
    message = 'a value is ' + str(key)
    print_log('all is well')
    print_log(f'{message} here', level=logging.WARNING)
    problems.add(f'={key!r}: not right')
    findings.warn('two ' f'words {key}')
    found = [f'{part}: no such part' for part in key]
    found += ['one more']
    _warn('it may fail')
    if found:
        raise ConfigError(found)
    raise ValueError(_text(key) if key else 'nothing given')
"""
    assert sorted(python_messages({'a.py': source})) == sorted([
        ('…: wrong; do this', 'a.py:4'), ('Careful: it may fail', 'a.py:6'),
        ('a value is … here', 'a.py:11'), ('…=…: not right', 'a.py:12'),
        ('two words …', 'a.py:13'), ('…: no such part', 'a.py:14'), ('one more', 'a.py:15'),
        ('nothing given', 'a.py:19')])


@pytest.mark.parametrize('cause, message', [
    (lambda: read_config('missing.py'), 'config=…: no such file'),
    (lambda: resolve_model('mmdt::a.py'), '…=…: unknown package; …'),
    (lambda: resolve_model(dict(cfg_path='mmdet::a.py')), 'type: missing; give a model dict'),
    (lambda: build(dict(type='PKDLos')), 'type=…: not registered; …'),
    (lambda: build(dict(type='PKDLoss', tau=1)), '…=…: … has no such argument; …'),
    (lambda: build(dict(type='PKDLoss', loss_weight='1')),
     '…=…: must be a number >= 0, e.g. 1.0'),
    (lambda: build(dict(type='UncertaintyFeatureLoss')), 'type=…: …'),
    (lambda: find_file('missing.pth', "load_from='missing.pth'"),
     '…: …; name an existing checkpoint'),
    (lambda: read_state_dict(__file__, 'load_from=...'), '…: not a readable checkpoint'),
    (lambda: check_data(dict(train_dataloader=dict(dataset=dict(ann_file='a.json'))), 'train'),
     'the config names data that does not exist'),
    (lambda: PerturbationHook(begin=2, stop=1), 'stop=…: must be None or an integer > begin=…'),
    (lambda: DistillationScheduleHook(tasks='fpn'),
     'custom_hooks.DistillationScheduleHook.tasks=…: must be None'),
    (lambda: DropoutPerturbation(1), 'drop_rate=…: must be a number in [0, 1), e.g. 0.1'),
    (lambda: AvatarDistiller(dict(type='PKDLoss'), dict(type='PKDLoss'), {}, None),
     'type=…: is no detector or segmentor (BaseModel)'),
])
def test_row_is_what_is_raised(cause: Callable[[], object], message: str):
    with pytest.raises(ConfigError) as caught:
        cause()
    row = next(row for row in MESSAGES if row.startswith(message))
    pattern = re.escape(row).replace('…', '.*')
    # In front there may be the path in the config.
    assert re.fullmatch(f'.*{pattern}', ' '.join(caught.value.problems[0].split()))


def test_components_named_are_registered():
    names = set(re.findall(
        r'\b[A-Z]\w+(?:Adapter|Distiller|Divergence|Hook|Learner|Loss|Sampler|Variance)\b', PAGE))
    assert names
    for package in 'mmdet', 'mmseg':
        importlib.import_module(f'{package}.engine.hooks')
    known = {name for package in ('mmengine', 'mmdet', 'mmseg')
             for kind in ('MODELS', 'HOOKS', 'DATA_SAMPLERS')
             for name in getattr(importlib.import_module(f'{package}.registry'), kind).module_dict}
    assert names <= known


def test_links_lead_somewhere():
    links = re.findall(r'\]\(([^)#:]*)(?:#([^)]*))?\)', PAGE)
    assert links
    for path, anchor in links:
        page = ROOT / 'docs' / path if path else ROOT / 'docs/troubleshooting.md'
        assert page.exists(), path
        assert not anchor or anchor in headings(page), f'{path}#{anchor}'


def headings(page: Path) -> list[str]:
    """List the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return [re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles]
