"""What an inspection finds: problems, and what is only suspicious."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..utils.config_file import describe
from ..utils.errors import ConfigError, ConfigProblems


class Findings(ConfigProblems):
    """Collects problems, which stop a training or spoil it, and warnings, which need not.

    Attributes:
        problems (list[str]): What is wrong, one line each.
        warnings (list[str]): What is suspicious, one line each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, warning: str) -> None:
        """Note what is suspicious.

        Args:
            warning (str): ``key=value: what is suspicious; what to do``.
        """
        self.warnings.append(warning)

    @contextmanager
    def attempt(self, key: str) -> Iterator[None]:
        """Note any error raised in the block under ``key`` and go on behind it.

        Args:
            key (str): The config key that the block handles.
        """
        with self.under(key):
            try:
                yield
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f': {describe(error)}') from error
