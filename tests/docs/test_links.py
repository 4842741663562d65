"""Links of the pages lead to files and headings that are there."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)#:\s]*)(?:#([^)\s]*))?\)', page.read_text())
    assert links
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in headings(target), f'{path}#{anchor}'


def headings(page: Path) -> list[str]:
    """List the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return [re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles]


def test_reading_order_names_every_page():
    page = (ROOT / 'docs/README.md').read_text()
    named = re.findall(r'^\d+\. \[.*\]\((.*?)\)', page, re.MULTILINE)
    assert sorted(named) == sorted(
        ['../README.md', *(page.name for page in PAGES[1:] if page.name != 'README.md')])
