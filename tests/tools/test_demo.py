"""The demo from beginning to end."""
import re
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_demo_and_its_second_call(workspace, script):
    (workspace / 'data').unlink()
    first = script(sys.executable, ROOT / 'tools/demo.py')
    rows = dict(re.findall(r'(\w+ student|teacher|student) +([0-9.]+) ', first.stdout))
    assert set(rows) >= {'teacher', 'student', 'CWD student', 'AKD student'}
    for task in ('Detection', 'Segmentation'):
        assert re.search(rf'{task}: AKD is [0-9.]+ above the plain student', first.stdout)
    demo = workspace / 'work_dirs' / 'demo'
    report = (demo / 'report.md').read_text()
    for figure in re.findall(r'\]\((figure_\w+\.png)\)', report):
        assert (demo / figure).stat().st_size > 50_000
    assert report.count('figure_') == 2

    start = time.monotonic()
    script(sys.executable, ROOT / 'tools/demo.py')
    assert time.monotonic() - start < 60  # reused, not trained again
