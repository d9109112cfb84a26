"""Values that tell their own fields by name, so that two versions of this code can tell each other values (pickle).

Each of our values is told as its kind, the names of its fields and what is in them. Who is told knows his own kinds:

    a field that he lacks        is harmless if there is nothing in it (None, 0, empty); else refused: it would be lost,
                                 and somebody has asked for it
    a field that was not told    has its default; refused if it has none. So who adds a field gives it a default that
                                 means what was meant before there was the field
    a kind that he lacks         is refused

What a field means is not told. Who changes that changes its name, or the number in handover_format.py.
"""

from __future__ import annotations

import copyreg
import errno
import io
import pickle
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Any, Final

from xfrmi.errors import XfrmError

_ENUMS: Final = "xfrmi.wire.xfrm_const"
_ABSENT: Final = object()


class Kinds:
    """Those that may be told. Each is a dataclass with slots or a NamedTuple; names are unique."""

    def __init__(self, kinds: Iterable[type]) -> None:
        self._kinds: dict[str, type] = {}
        self._names: dict[type, tuple[str, ...]] = {}
        self._dispatch = copyreg.dispatch_table.copy()
        for kind in kinds:
            self.add(kind)

    def add(self, kind: type) -> None:
        """Also instead of one of this name."""
        names = self._names[kind] = getattr(kind, "_fields", None) or tuple(field.name for field in fields(kind))
        self._kinds[kind.__name__] = kind
        self._dispatch[kind] = _reduce(kind.__name__, names)

    def dumps(self, value: object) -> bytes:
        file = io.BytesIO()
        pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
        pickler.dispatch_table = self._dispatch
        pickler.dump(value)
        return file.getvalue()

    def loads(self, data: memoryview) -> Any:
        """XfrmError EPROTONOSUPPORT for what another version of this code has told and this one cannot take; another
        exception for nonsense."""
        return _Unpickler(io.BytesIO(data), self._make).load()

    def _make(self, name: str, names: tuple[str, ...], values: tuple[object, ...]) -> object:
        kind = self._kinds.get(name)
        if kind is None:
            raise _of_another_version(f"tells a {name}, which this one does not know")
        own = self._names[kind]
        if names != own:
            values = _as_here(kind, own, dict(zip(names, values, strict=True)))
        if issubclass(kind, tuple):
            return tuple.__new__(kind, values)
        made = object.__new__(kind)
        for field, value in zip(own, values, strict=True):
            object.__setattr__(made, field, value)
        return made


def check_unknown(name: str, value: object) -> None:
    """Of a thing called `name` that we know nothing of: XfrmError EPROTONOSUPPORT if there is something in it."""
    if value:
        raise _of_another_version(f"tells {name}, which this one does not know and cannot go on with")


def _as_here(kind: type, own: tuple[str, ...], told: dict[str, object]) -> tuple[object, ...]:
    values = []
    defaults = _defaults(kind)
    for name in own:
        value = told.pop(name, _ABSENT)
        if value is _ABSENT:
            if name not in defaults:
                raise _of_another_version(f"does not tell {kind.__name__}.{name}")
            value = defaults[name]()
        values.append(value)
    for name, value in told.items():
        check_unknown(f"{kind.__name__}.{name}", value)
    return tuple(values)


def _defaults(kind: type) -> dict[str, Callable[[], object]]:
    given = getattr(kind, "_field_defaults", None)
    if given is not None:
        return {name: lambda value=value: value for name, value in given.items()}  # type: ignore[misc]
    defaults: dict[str, Callable[[], object]] = {}
    for field in fields(kind):
        if field.default is not MISSING:
            defaults[field.name] = lambda value=field.default: value  # type: ignore[misc]
        elif field.default_factory is not MISSING:
            defaults[field.name] = field.default_factory
    return defaults


def _of_another_version(what: str) -> XfrmError:
    return XfrmError(
        errno.EPROTONOSUPPORT,
        detail=f"the other daemon is of another version and {what}: stop it and start the new one (interfaces and "
        "routes stay, keys do not)",
    )


def _reduce(name: str, names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    def reduce(value: Any) -> tuple[Any, ...]:
        return made, (name, names, tuple([getattr(value, field) for field in names]))

    return reduce


def made(name: str, names: tuple[str, ...], values: tuple[object, ...]) -> object:
    """What stands in a pickle for the making of a value; see Kinds.loads."""
    raise NotImplementedError


class _Unpickler(pickle.Unpickler):
    """Makes nothing but values of ours."""

    def __init__(self, file: io.BytesIO, make: Callable[..., object]) -> None:
        super().__init__(file)
        self._make = make

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, made.__name__):
            return self._make
        if module == _ENUMS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")
