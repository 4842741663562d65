"""The tables of docs/configs.md say what the configs are."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.fileio import load

from mmakd.utils.references import find_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/configs.md').read_text()
LINK = re.compile(r'\]\(\.\./(configs/[^)]+\.py)\)')
# Tables whose header has the columns of the published numbers.
ROWS = [[cell.strip() for cell in line.strip('|').split('|')] for line in PAGE.splitlines()
        if line.startswith('|') and '[base](' in line]


def test_page_names_every_config_and_no_other():
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')
               if not {'_base_', 'toy'} & set(path.parts)}
    assert set(LINK.findall(PAGE)) == configs


@pytest.mark.parametrize('row', ROWS, ids=lambda row: LINK.findall(row[-1])[0].split('/')[-1])
def test_row_is_that_of_its_configs(row):
    student, student_result, teacher, teacher_result, criterion, _, _, links = row
    base, akd, *control = LINK.findall(links)
    assert Path(akd).name == f'akd-{Path(base).name}'
    assert control in ([], [base.replace('/cwd_', '/cwd-norm_')])
    assert Path(base).name.split('_')[0].lower() == re.match(r'\w+', criterion)[0].lower()
    labels = [label.lower().replace('r-cnn', 'rcnn').replace(' ', '-')
              for label in (teacher, student)]
    assert Path(akd).name.split('_')[1:3] == labels
    model = Config.fromfile(ROOT / akd).model
    for result, reference in (student_result, model.student), (teacher_result, model.teacher):
        stated = [float(part) for part in result.split('/')]
        # A box detector is compared by the first of a mask detector's two.
        assert stated == published_results(reference)[:len(stated)]


def published_results(reference: str) -> list[float]:
    """Read the first metric of each task in the metafile of mmdet or mmseg."""
    path = find_config(reference)
    for metafile in path.parent.glob('metafile.y*ml'):
        for model in load(metafile)['Models']:
            if model['Config'].endswith(f'/{path.name}'):
                results = model['Results']
                results = results if isinstance(results, list) else [results]
                return [next(iter(result['Metrics'].values())) for result in results]
    raise LookupError(reference)
