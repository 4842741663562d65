"""Reading checkpoints as data where torch's own reader is too old for it.

Before 2.6, ``torch.load(weights_only=True)`` knows no types but tensors and runs TorchScript
programs (CVE-2025-32434); before 2.10, a file can have it write beyond its memory
(CVE-2026-24747).
"""
import _codecs
import io
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch
from torch._weights_only_unpickler import _get_allowed_globals

# What torch.save writes; no other instruction is followed.
_INSTRUCTIONS = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.NEWOBJ,
    pickle.BUILD, pickle.BINPERSID, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE,
    pickle.SHORT_BINSTRING, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
    pickle.SETITEM, pickle.SETITEMS, pickle.EMPTY_SET, pickle.BINGET, pickle.LONG_BINGET,
    pickle.BINPUT, pickle.LONG_BINPUT)
_CONTAINERS = (list, dict, OrderedDict, Counter)
_Base: Any = pickle._Unpickler  # the one in Python, whose instructions can be replaced


def load_data(path: Path, map_location: Any,
              harmless: list[Callable | tuple[Callable, str]]) -> Any:
    """Read a file that ``torch.save`` wrote, without executing anything that it names.

    Args:
        path (Path): The file.
        map_location (Any): As of ``torch.load``.
        harmless (list): What the file may name beside tensors, as of
            ``torch.serialization.safe_globals``: functions and types, with the name that they
            have in the file if it is not theirs.

    Returns:
        Any: What was saved.

    Raises:
        UnpicklingError: If the file holds something else.
    """
    named = dict(item[::-1] if isinstance(item, tuple)
                 else (f'{item.__module__}.{item.__qualname__}', item) for item in harmless)
    known = {**_get_allowed_globals(), '_codecs.encode': _codecs.encode, 'builtins.set': set,
             **named}
    built = tuple(item for item in named.values() if isinstance(item, type))
    with path.open('rb') as file:
        source: BinaryIO = file
        if torch.serialization._is_zipfile(file):
            archive = torch._C.PyTorchFileReader(str(path))
            if 'constants.pkl' in archive.get_all_records():
                raise pickle.UnpicklingError('unsupported GLOBAL torch.jit.load')
        else:
            archive = None
            # torch takes a file, but no buffer, for the tar archive of its first versions.
            source = io.BytesIO(file.read())
        reader = type('Unpickler', (_Unpickler, ), dict(known=known, built=built, archive=archive))
        module = SimpleNamespace(
            __name__=__name__, Unpickler=reader, UnpicklingError=pickle.UnpicklingError,
            load=lambda file, **kwargs: reader(file, **kwargs).load())
        return torch.load(source, map_location, pickle_module=module, weights_only=False)


class _Unpickler(_Base):
    """Calls, makes and fills nothing but what it knows.

    The class of a file has ``known``, functions and types by name; ``built``, the types that make
    themselves from a state; and ``archive``, torch's reader of the file, None before torch 1.6.
    """

    known: dict[str, Any]
    built: tuple[type, ...]
    archive: Any

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError(f'unknown instruction {error}') from error

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in self.known:
            raise pickle.UnpicklingError(f'unsupported GLOBAL {full}')
        return self.known[full]

    def load_reduce(self) -> None:
        _check(any(self.stack[-2] is item for item in self.known.values()), self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        _check(any(self.stack[-2] is item for item in self.built), self.stack[-2])
        super().load_newobj()

    def load_build(self) -> None:
        _check(type(self.stack[-2]) in (OrderedDict, *self.built), self.stack[-2])
        super().load_build()

    def load_append(self) -> None:
        _check(type(self.stack[-2]) is list, self.stack[-2])
        super().load_append()

    def load_appends(self) -> None:
        _check(type(self.metastack[-1][-1]) is list, self.metastack[-1][-1])
        super().load_appends()

    def load_setitem(self) -> None:
        _check(type(self.stack[-3]) in _CONTAINERS, self.stack[-3])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check(type(self.metastack[-1][-1]) in _CONTAINERS, self.metastack[-1][-1])
        super().load_setitems()

    def load_binpersid(self) -> None:
        kind, *rest = self.stack[-1]
        if kind not in ('storage', b'storage'):
            raise pickle.UnpicklingError(f'a {kind} instead of a storage')
        if self.archive is not None:
            storage, key, _, length = rest
            width = 1 if storage is torch.UntypedStorage else torch._utils._element_size(
                storage.dtype)
            if not 0 <= length * width <= len(self.archive.get_record(f'data/{key}')):
                raise pickle.UnpicklingError(f'storage {key} is shorter than it says')
        super().load_binpersid()

    dispatch = {
        **{code[0]: _Base.dispatch[code[0]] for code in _INSTRUCTIONS},
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BINPERSID[0]: load_binpersid,
    }


def _check(is_allowed: bool, what: Any) -> None:
    if not is_allowed:
        kind = what if isinstance(what, type) or callable(what) else type(what)
        name = getattr(kind, '__qualname__', type(kind).__qualname__)
        raise pickle.UnpicklingError(
            f"unsupported GLOBAL {getattr(kind, '__module__', '')}.{name}")
