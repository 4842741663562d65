"""The measured rows of docs/family.md are those of docs/family.json."""
import re
from pathlib import Path

import train_seeds

ROOT = Path(__file__).parents[2]


def test_rows_are_what_the_command_prints(monkeypatch, capsys):
    page = (ROOT / 'docs/family.md').read_text()
    command = re.search(r'python tools/train_seeds\.py (configs/seg/toy/)\{([\w,-]+)\}(\S+)', page)
    folder, names, end = command.groups()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train_seeds, 'train', None)  # it only prints what is known
    train_seeds.main([*(f'{folder}{name}{end}' for name in names.split(',')),
                      '--results', 'docs/family.json'])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 10
    assert printed in page
