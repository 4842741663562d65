"""The numbers of docs/reproduce.md are those of docs/configs.md, and its bands lie around them."""
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'\]\((\.\./configs/.*?\.py)\)')


def rows_of(name):
    """Read the cells of the rows that link configs: by the configs of base and AKD."""
    lines = [line for line in (ROOT / 'docs' / name).read_text().splitlines() if '[base]' in line]
    return {tuple(LINK.findall(line)[:2]): [cell.strip() for cell in line.strip('|').split('|')]
            for line in lines}


def test_numbers_and_bands():
    known = rows_of('configs.md')
    page = (ROOT / 'docs/reproduce.md').read_text()
    questions = [re.findall(r'(?<=\| )(?:[\d.]+ to [\d.]+|none published)(?= \|)', line)
                 for line in re.findall(r'^\| [123]\. .*', page, re.M)]
    for place, (configs, row) in enumerate(rows_of('reproduce.md').items()):
        plain, base, akd = row[2:5]
        _, known_plain, _, _, criterion, known_base, known_akd, _ = known[configs]
        assert criterion == row[1] and known_plain == plain
        assert [re.sub(r' \(.\)', '', cell) for cell in (known_base, known_akd)] == [base, akd]
        least = .3 if 'coco' in configs[0] else .5
        for number, bands in zip((plain, base, akd), questions):
            if number == '-':
                assert bands[place] == 'none published'
            else:
                lowest, highest = map(float, bands[place].split(' to '))
                assert abs(float(number) - lowest - least) < .051
                assert abs(highest - float(number) - least) < .051
    assert place == 4
