"""The student and the teacher that the command line names."""
import copy
from pathlib import Path

from mmengine.model import BaseModel

from mmakd.checks.parts import quiet
from mmakd.distillers.assembly import build_network
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, ConfigProblems
from mmakd.utils.references import find_config, is_reference


class Side:
    """The student or the teacher.

    Args:
        option (str): What the command line calls it.
        name (str): A reference or a path.

    Attributes:
        name (str): The reference, or the path as seen from here.
        path (Path): The config file.
        cfg (Config): What it holds, to be changed at will.
        can_be_base (bool): Whether another config can inherit the file wherever that lies.

    Raises:
        ConfigError: If it is no config of a plain model.
    """

    def __init__(self, option: str, name: str) -> None:
        self.option = option
        self.name = name if is_reference(name) else seen_from_here(Path(name))
        try:
            self.path = find_config(self.name)
            self.cfg = read_config(self.path)
        except ConfigError as error:
            raise ConfigError([f'{option}={name!r}: {problem}' for problem in error.problems]
                              ) from error
        model = self.cfg.get('model')
        if not isinstance(model, dict) or 'distill' in model:
            raise ConfigError(f'{option}={name!r}: defines no plain model; give the config of a '
                              'detector or a segmentor, without distillation')
        # MMEngine mixes no files with read_base() and others.
        self.can_be_base = not is_reference(name) and 'read_base' not in self.path.read_text()

    def build(self) -> BaseModel:
        """Build the network, with random weights."""
        # Some networks change the config that they are built from.
        model, preprocessor = copy.deepcopy(
            (self.cfg.model, self.cfg.get('data_preprocessor')))
        problems = ConfigProblems()
        with problems.under(f'{self.option}={self.name!r}: model'), quiet():
            return build_network(dict(model, _scope_=self.cfg.get('default_scope')), preprocessor)
        raise ConfigError(problems.problems)


def seen_from_here(path: Path) -> str:
    """Write a path relative to the current directory, if it is in there."""
    here, absolute = Path.cwd(), path.absolute()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else path).as_posix()
