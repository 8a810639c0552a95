"""Messages and record bodies as frozen dataclasses whose annotations say what each field may hold.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class End:
        data_size: Annotated[int, Int(0, limits.ANSWER_BYTES)]
        load: Annotated[Load | None, LOAD] = None
        unknown: Unknown = field(default_factory=no_unknown, hash=False)

Knows no particular message. A field without a default must be there; one whose default is None is left out of the
map when it is None (nil never stands for it: one meaning, one spelling). Fields that this version does not know
are kept in `unknown` and written back, so that a newer node's message survives an older one.

Every rule works both ways, `load` from the wire and `dump` to it, and raises `Flaw`; `read` and `write` decide
whose fault that is.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar, cast, get_args, get_origin

from protocol.errors import Flaw, Reason, blame_peer, blame_us
from protocol.ids import InvalidId
from protocol.wire import Value

T = TypeVar("T")
U = TypeVar("U")
Unknown = Mapping[str, Value]
UNKNOWN = "unknown"
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")


def no_unknown() -> Unknown:
    """Return the `unknown` of a message that was made here."""
    return {}


class Rule(Protocol[T]):
    """What one field may hold, and how it lies on the wire."""

    def load(self, value: Value) -> T:
        """Return the field's value. Raises: Flaw."""
        ...

    def dump(self, value: T) -> Value:
        """Return what goes on the wire. Raises: Flaw."""
        ...


class Record(Protocol):
    """A dataclass that follows the conventions above."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def unknown(self) -> Unknown:
        """Fields that this version does not know."""
        ...


R = TypeVar("R", bound=Record)


def read(cls: type[R], value: Value) -> R:
    """Return the dataclass that a decoded map stands for.

    Raises:
        RemoteProtocolError: a field is missing, of a wrong type, out of bounds or malformed; `path` names it.
    """
    try:
        return load(cls, value)
    except Flaw as flaw:
        raise blame_peer(flaw) from None


def write(message: Record) -> dict[str, Value]:
    """Return the map that goes on the wire.

    Raises:
        LocalProtocolError: a field does not keep its own rule.
    """
    try:
        return dump(message)
    except Flaw as flaw:
        raise blame_us(flaw) from None


def load(cls: type[R], value: Value) -> R:
    """As `read`, for rules that nest. Raises: Flaw."""
    given = dict(cast("dict[str, Value]", _expect(value, dict)))
    known: dict[str, Any] = {}
    for name, rule, required in _plan(cls):
        if name in given:
            try:
                known[name] = rule.load(given.pop(name))
            except Flaw as flaw:
                raise flaw.under(name) from None
        elif required:
            raise Flaw(Reason.MISSING_FIELD, "it is required", name)
    return cast("Callable[..., R]", cls)(**known, unknown=given)


def dump(message: Record) -> dict[str, Value]:
    """As `write`, for rules that nest. Raises: Flaw."""
    out = dict(message.unknown)
    for name, rule, required in _plan(type(message)):
        if name in out:
            raise Flaw(Reason.MALFORMED, "a known field among the unknown ones", name)
        value = getattr(message, name)
        if required or value is not None:
            try:
                out[name] = rule.dump(value)
            except Flaw as flaw:
                raise flaw.under(name) from None
    return out


def _each(do: Callable[[T], U], named: Iterable[tuple[object, T]]) -> Iterator[U]:
    """Yield `do` of each value; a flaw in one is a flaw of what its name holds."""
    for name, value in named:
        try:
            done = do(value)
        except Flaw as flaw:
            raise flaw.under(str(name)) from None
        yield done


@cache
def _plan(cls: type[Record]) -> tuple[tuple[str, Rule[Any], bool], ...]:
    """Return (name, rule, required) of each field, read once from the annotations."""
    plan: list[tuple[str, Rule[Any], bool]] = []
    for item in fields(cls):
        if item.name == UNKNOWN:
            continue
        if get_origin(item.type) is not Annotated or item.default not in (MISSING, None):
            raise TypeError(f"{cls.__name__}.{item.name}: an Annotated type, and no default but None")
        plan.append((item.name, cast("Rule[Any]", get_args(item.type)[1]), item.default is MISSING))
    return tuple(plan)


def _expect(value: Value, kind: type[T]) -> T:
    # Exact: True is an int to `isinstance`, and two spellings of 1 to a signature.
    if type(value) is not kind:
        raise Flaw(Reason.WRONG_TYPE, f"{type(value).__name__} where {kind.__name__} belongs")
    return value


@dataclass(frozen=True, slots=True)
class Int:
    """An integer between two bounds, both included."""

    low: int
    high: int

    def load(self, value: Value) -> int:
        """See `Rule`."""
        number = _expect(value, int)
        if not self.low <= number <= self.high:
            raise Flaw(Reason.OUT_OF_BOUNDS, f"{number} is not in {self.low}..{self.high}")
        return number

    dump = load


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def load(self, value: Value) -> bool:
        """See `Rule`."""
        return _expect(value, bool)

    dump = load


@dataclass(frozen=True, slots=True)
class Text:
    """A text of at most `most` UTF-8 bytes, wholly matched by `pattern` where there is one.

    Patterns must be linear: single character classes with bounded repeats, nothing nested.
    """

    most: int
    pattern: str | None = None

    def load(self, value: Value) -> str:
        """See `Rule`."""
        text = _expect(value, str)
        if len(text) > self.most or len(text.encode(errors="surrogatepass")) > self.most:
            raise Flaw(Reason.OUT_OF_BOUNDS, f"a text above {self.most} bytes")
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            raise Flaw(Reason.MALFORMED, f"not of the form {self.pattern}")
        return text

    dump = load


@dataclass(frozen=True, slots=True)
class Blob:
    """A byte string of `least` to `most` bytes."""

    least: int
    most: int

    def load(self, value: Value) -> bytes:
        """See `Rule`."""
        blob = _expect(value, bytes)
        if not self.least <= len(blob) <= self.most:
            raise Flaw(Reason.OUT_OF_BOUNDS, f"{len(blob)} bytes are not in {self.least}..{self.most}")
        return blob

    dump = load


@dataclass(frozen=True, slots=True)
class Id(Generic[T]):
    """An identity, parsed by its own constructor: `Id(bytes, PeerId.from_bytes, PeerId.to_bytes)`."""

    form: type[Any]  # what lies on the wire: str, bytes or int
    parse: Callable[[Any], T]
    spell: Callable[[T], Value]

    def load(self, value: Value) -> T:
        """See `Rule`."""
        try:
            return self.parse(_expect(value, self.form))
        except InvalidId as error:
            raise Flaw(Reason.MALFORMED, str(error)) from None

    def dump(self, value: T) -> Value:
        """See `Rule`."""
        return _expect(self.spell(value), self.form)


@dataclass(frozen=True, slots=True)
class Items(Generic[T]):
    """At most `most` values under one rule, in order: a list on the wire, a tuple here."""

    rule: Rule[T]
    most: int

    def load(self, value: Value) -> tuple[T, ...]:
        """See `Rule`."""
        items = cast("list[Value]", _expect(value, list))
        self._count(len(items))
        return tuple(_each(self.rule.load, enumerate(items)))

    def dump(self, value: tuple[T, ...]) -> Value:
        """See `Rule`."""
        self._count(len(value))
        return list(_each(self.rule.dump, enumerate(value)))

    def _count(self, count: int) -> None:
        if count > self.most:
            raise Flaw(Reason.OUT_OF_BOUNDS, f"{count} entries where {self.most} are allowed")


@dataclass(frozen=True, slots=True)
class Named(Generic[T]):
    """At most `most` values under one rule, by short names that the sender chooses, each of the form `names`."""

    rule: Rule[T]
    most: int
    names: re.Pattern[str] = _NAME

    def load(self, value: Value) -> Mapping[str, T]:
        """See `Rule`."""
        given = cast("dict[str, Value]", _expect(value, dict))
        self._hold(given)
        return dict(zip(given, _each(self.rule.load, given.items()), strict=True))

    def dump(self, value: Mapping[str, T]) -> Value:
        """See `Rule`."""
        self._hold(value)
        return dict(zip(value, _each(self.rule.dump, value.items()), strict=True))

    def _hold(self, names: Mapping[str, object]) -> None:
        if len(names) > self.most:
            raise Flaw(Reason.OUT_OF_BOUNDS, f"{len(names)} entries where {self.most} are allowed")
        if not all(map(self.names.fullmatch, names)):
            raise Flaw(Reason.MALFORMED, f"a name is not of the form {self.names.pattern}")


@dataclass(frozen=True, slots=True)
class Nested(Generic[R]):
    """A map that is itself a dataclass of this sort."""

    cls: type[R]

    def load(self, value: Value) -> R:
        """See `Rule`."""
        return load(self.cls, value)

    def dump(self, value: R) -> Value:
        """See `Rule`."""
        return dump(value)


@dataclass(frozen=True, slots=True)
class Opaque:
    """A map that is carried and not looked into: reserved for a later version, under the wire's own bounds."""

    def load(self, value: Value) -> Mapping[str, Value]:
        """See `Rule`."""
        return cast("dict[str, Value]", _expect(value, dict))

    def dump(self, value: Mapping[str, Value]) -> Value:
        """See `Rule`."""
        return dict(value)
