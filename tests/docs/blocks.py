"""The blocks of the pages."""
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / 'README.md'
# Tests of their own run the code of the other page, beside MMRazor.
PAGES = [README, *(page for page in sorted((ROOT / 'docs').glob('*.md'))
                   if page.name != 'migrate_from_mmrazor.md')]
COMMANDS, CODE, CONFIG = 'shell', 'code', 'config'


class Block(NamedTuple):
    """A block of a page.

    Attributes:
        kind (str): What it holds: ``COMMANDS``, ``CODE`` or ``CONFIG``.
        text (str): Its text.
        file (str): Where a reader saves a config, empty for parts of one.
    """

    kind: str
    text: str
    file: str = ''


def find_blocks(page: Path) -> list[Block]:
    """Read the blocks of a page.

    Args:
        page (Path): The page.

    Returns:
        list[Block]: Its blocks, in order. Those without a language are output, and left out.
    """
    parts = re.split(r'^```(\w*)\n(.*?)^```$', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    blocks = []
    for before, language, text in zip(parts[::3], parts[1::3], parts[2::3]):
        if language in ('shell', 'bash'):
            blocks.append(Block(COMMANDS, text))
        elif re.search(r'^(import|from) ', text, re.MULTILINE) and 'read_base()' not in text:
            blocks.append(Block(CODE, text))
        elif language:
            assert language == 'python', language
            named = re.findall(r'save this as `(.+?)`', before)
            ten_lines = "_base_ = 'my_student.py'" in text
            blocks.append(Block(CONFIG, text, named[-1] if named else
                                'my_akd_student.py' if ten_lines else ''))
    return blocks
