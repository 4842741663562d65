import re

import pytest

from mmakd.utils.config_file import describe, import_custom_modules, read_config
from mmakd.utils.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def to(name, text):
        (tmp_path / name).write_text(text)
        return name

    return to


def test_options_override_the_file(write):
    path = write('a.py', 'a = dict(b=1, c=[dict(x=1), dict(x=2)])\n')
    cfg = read_config(path, {'a.b': 2, 'a.c.1.x': 3, 'd': 'new'})
    assert cfg.a == dict(b=2, c=[dict(x=1), dict(x=3)]) and cfg.d == 'new'


@pytest.mark.parametrize(('text', 'message'), [
    ('a = dict(b=1\n', "config='a.py': a.py, line 1: SyntaxError: '(' was never closed"),
    ('b = 1\n\na = foo\n', "config='a.py': a.py, line 3: NameError: name 'foo' is not defined"),
    ("_base_ = 'broken.py'\n", "config='a.py': broken.py, line 2: ZeroDivisionError: "),
    ("_base_ = 'child.py'\n", "_base_='nowhere.py': named by child.py, no such file"),
    ("_base_ = 'bse.py'\n",
     "_base_='bse.py': named by a.py, no such file; did you mean 'base.py'"),
    ("_base_ = 'x/base.py'\n", "there is no directory 'x' either"),
    ("_base_ = 'base.py'\na = dict(b=dict(c=1))\n", 'You may set `_delete_=True`'),
    ("_base_ = ['base.py', 'base2.py']\n", 'KeyError: Duplicate key is not allowed among bases'),
    ("a = open('nowhere.txt')\n", 'a.py, line 1: FileNotFoundError'),
    ('import sys\nsys.exit(1)\n', "config='a.py': a.py"),
    ('import no_such_module\na = no_such_module.b\n', 'no_such_module'),
])
def test_unreadable_file_is_one_line(write, text, message):
    write('base.py', 'a = dict(b=1)\n')
    write('base2.py', 'a = dict(b=2)\n')
    write('broken.py', 'a = 1\nb = 1 / 0\n')
    write('child.py', "_base_ = 'nowhere.py'\n")
    with pytest.raises(ConfigError) as caught:
        read_config(write('a.py', text))
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1 and '\n' not in str(caught.value)


def test_missing_file_suggests_its_neighbours(write):
    write('student.py', '')
    with pytest.raises(ConfigError, match=re.escape(
            "config='studnet.py': no such file; did you mean 'student.py'?")):
        read_config('studnet.py')


@pytest.mark.parametrize('options', [{'a.c.5': 1}, {'a.b.d': 1}, {'a.c.x': 1}])
def test_options_that_do_not_fit(write, options):
    path = write('a.py', 'a = dict(b=1, c=[1, 2])\n')
    with pytest.raises(ConfigError, match=r'^--cfg-options: \w+Error: '):
        read_config(path, options)


@pytest.mark.parametrize(('value', 'message'), [
    (dict(imports=['mmakdd']), "cannot import 'mmakdd' (ModuleNotFoundError: "),
    (dict(imports='mmakdd'), "did you mean 'mmakd'?"),
    (dict(imports=['broken_module'], allow_failed_imports=True), 'ZeroDivisionError'),
    (dict(import_=['mmakd']), "expected dict(imports=['mmakd']"),
    (['mmakd'], "expected dict(imports=['mmakd']"),
])
def test_custom_imports_that_fail(write, tmp_path, monkeypatch, value, message):
    write('broken_module.py', '1 / 0\n')
    monkeypatch.syspath_prepend(tmp_path)
    path = write('a.py', f'custom_imports = {value!r}\n')
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).startswith('custom_imports') and message in str(caught.value)
    assert read_config(path, import_modules=False).custom_imports == value


def test_custom_imports_that_may_fail(write, tmp_path, monkeypatch):
    write('sound_module.py', 'value = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    cfg = read_config(write('a.py', "custom_imports = dict(imports=['nowhere', 'sound_module'], "
                                    'allow_failed_imports=True)\n'))
    import_custom_modules(cfg)
    import sys
    assert sys.modules['sound_module'].value == 1


@pytest.mark.parametrize(('error', 'expected'), [
    (KeyError('metric'), 'KeyError: metric'),
    (ValueError('too   large\nreally'), 'ValueError: too large'),
    (AssertionError(), 'AssertionError'),
])
def test_describe(error, expected):
    assert describe(error) == expected
