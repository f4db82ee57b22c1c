"""Rules: what is answered when no model is asked, in CEL, the Common Expression Language.

A rule is a condition over a typed view of the row and the answer it gives where that is true. The
first that matches answers; the last, `default`, has no condition and cannot fail. What a rule may
say is so little that each of them ends: no macros (they loop) and no regular expressions (one is
compiled anew for every row, up to milliseconds each time).

The view of a row:

- `r.<field>` (`r["field name"]`): a number or timestamp as double (seconds since 1970), a boolean,
  a category as text; null where the row has no value. A category that no vocabulary has is the
  caller's own text, normalized as declared.
- `flag.<field>`: `"ok"`, or the trouble of the field.
- `reason`: the reason that decided, as answers have it: `"distance:missing"`, `"check:order"`,
  `"deadline"`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.fields import FLAG_NAMES, Field
from features.normalization import normalizer
from models.manifest import CONDITION_NAME, OutputSpec, Rule
from models.outputs import check_answer
from models.vocabulary import DEFAULT_RULE

MOST_RULES: Final = 50
MOST_CHARACTERS: Final = 1_000
MOST_ADDITIONS: Final = 20
"""Of a rule: each copies what it joins, so that a hundred of the longest texts take 10 ms."""
MOST_OF_A_TEXT: Final = 1_024
"""Characters of a caller's own text that rules see."""
FUNCTIONS: Final = (
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "double",
    "string",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
)
VARIABLES: Final = ("r", "flag", "reason")

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>(?:[rR][bB]?|[bB][rR])(?:'''.*?'''|\"\"\".*?\"\"\"|'[^'\n]*'|"[^"\n]*")
      |[bB]?(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>0[xX][0-9A-Fa-f]+[uU]?|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
    |(?P<sign>[=!<>]=|&&|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: Final = ("true", "false", "null", "in")


class Raised(NamedTuple):
    """A rule that gave no yes or no; `rule` is its place."""

    rule: int
    error: str


class Rules:
    """The rules of one bundle, compiled. Immutable; any thread may ask.

    Args:
        rules: in the order in which they are asked.
        default: a value for each output.
        fields: in the row's order.
        vocabularies: normalized texts of each category, in code order.
        outputs: of the bundle.

    Raises:
        ValueError: a rule that is too long or adds too often, does not compile, reads what there
            is not, calls a macro or an unknown function, or whose answer is not valid; too many of
            them, or two of one name.

    Attributes:
        names: of all rules; the last is `default`.
        answers: a value per output for each of `names`.
    """

    __slots__ = (
        "_conditions",
        "_context",
        "_flags",
        "_readers",
        "_reads_reason",
        "answers",
        "names",
    )

    def __init__(
        self,
        rules: Sequence[Rule],
        default: Mapping[str, Any],
        fields: Sequence[Field],
        vocabularies: Mapping[str, Sequence[str]],
        outputs: Sequence[OutputSpec],
    ) -> None:
        _check_names([rule.name for rule in rules])
        self.names = (*(rule.name for rule in rules), DEFAULT_RULE)
        self.answers = (
            *(_answer(f"rule {rule.name!r}", rule.outputs, outputs) for rule in rules),
            _default(default, fields, outputs),
        )
        known = [field.name for field in fields]
        engine = _engine() if rules else None
        self._context: Any = engine and engine.Context
        self._conditions = tuple(_compiled(engine, rule, known) for rule in rules)
        read = {name for condition in self._conditions for name in condition.fields}
        self._readers = tuple(
            (field.name, place, _reader(field, vocabularies.get(field.name, ())))
            for place, field in enumerate(fields)
            if field.name in read
        )
        flags = {name for condition in self._conditions for name in condition.flags}
        self._flags = tuple((name, known.index(name)) for name in known if name in flags)
        self._reads_reason = any(condition.reads_reason for condition in self._conditions)

    def first(
        self,
        row: NDArray[np.float64],
        flags: NDArray[np.uint8],
        record: Mapping[str, Any],
        reason: str,
    ) -> tuple[int, Sequence[Raised]]:
        """The place of the rule that answers, and those before it that raised.

        Args:
            row: float64 (F,), as the model would get it.
            flags: uint8 (F,).
            record: what was encoded; empty when only a table is at hand.
            reason: that decided, as answers have it.
        """
        if not self._conditions:
            return 0, ()
        view = self._view(row, flags, record, reason)
        raised: list[Raised] = []
        for place, condition in enumerate(self._conditions):
            matches, error = condition.holds(view)
            if matches:
                return place, raised
            if error:
                raised.append(Raised(place, error))
        return len(self._conditions), raised

    def raising(
        self,
        row: NDArray[np.float64],
        flags: NDArray[np.uint8],
        record: Mapping[str, Any],
        reason: str,
    ) -> list[Raised]:
        """All rules that raise for this row, also those that it does not reach; as in `first`."""
        if not self._conditions:
            return []
        view = self._view(row, flags, record, reason)
        asked = (condition.holds(view) for condition in self._conditions)
        return [Raised(place, error) for place, (_, error) in enumerate(asked) if error]

    def _view(
        self,
        row: NDArray[np.float64],
        flags: NDArray[np.uint8],
        record: Mapping[str, Any],
        reason: str,
    ) -> "View":
        """What conditions see; made once for a row, with only what some rule reads."""
        values = {
            name: read(row.item(place), record.get(name)) for name, place, read in self._readers
        }
        variables: dict[str, Any] = {"r": values}
        if self._flags:
            variables["flag"] = {name: FLAG_NAMES[flags.item(place)] for name, place in self._flags}
        if self._reads_reason:
            variables["reason"] = reason
        nulls = frozenset(name for name, value in values.items() if value is None)
        return View(self._context(variables), nulls)


class View(NamedTuple):
    """A row as conditions see it; `nulls` are its fields without a value."""

    context: Any
    nulls: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A compiled `when`.

    Attributes:
        fields: that it reads.
        needed: those without which it does not match: all it reads but the ones it compares with
            null.
        flags: fields whose flag it reads.
    """

    program: Any
    fields: frozenset[str]
    needed: frozenset[str]
    flags: frozenset[str]
    reads_reason: bool

    def holds(self, view: View) -> tuple[bool, str]:
        """Whether it is true of a row, and why it could not be told; it then is not."""
        if self.needed & view.nulls:
            return False, ""
        try:
            answer = self.program.execute(view.context)
        except Exception as error:  # noqa: BLE001  (the engine raises many kinds; the next rule is asked)
            return False, f"it raises {type(error).__name__}: {error}"
        if answer.__class__ is not bool:
            return False, f"it gives {answer!r}, which is neither true nor false"
        return answer, ""


# compiling


def _engine() -> Any:
    # Imported where the first rule is: its package imports a command line of its own, which costs
    # half a second and 24 MiB, and most bundles have no rules but the default.
    import cel

    return cel


def _compiled(engine: Any, rule: Rule, fields: Sequence[str]) -> Condition:
    where = f"rule {rule.name!r}"
    if len(rule.when) > MOST_CHARACTERS:
        raise ValueError(
            f"{where} has {len(rule.when)} characters, at most {MOST_CHARACTERS} are allowed; "
            "compute what it needs as a check, or split it"
        )
    try:
        program = engine.compile(rule.when)
    except Exception as error:
        raise ValueError(
            f"{where}: {rule.when!r} is no CEL expression: {str(error).strip()}"
        ) from error
    tokens = _tokens(rule.when)
    additions = sum(token == Token("sign", "+") for token in tokens)
    if additions > MOST_ADDITIONS:
        raise ValueError(
            f"{where} adds {additions} times, at most {MOST_ADDITIONS} are allowed, as texts that "
            "are joined grow; compute what it needs as a check, or split it"
        )
    _check_functions(where, tokens, program)
    _check_variables(where, tokens, program)
    reads = [_read(where, tokens, place, fields) for place in _variables(tokens, "r")]
    flags = [_read(where, tokens, place, fields) for place in _variables(tokens, "flag")]
    _check_nulls(where, tokens, reads)
    return Condition(
        program=program,
        fields=frozenset(read.field for read in reads),
        needed=frozenset(read.field for read in reads)
        - frozenset(read.field for read in reads if read.is_compared_with_null),
        flags=frozenset(read.field for read in flags),
        reads_reason=bool(_variables(tokens, "reason")),
    )


class Token(NamedTuple):
    """A part of an expression's text; `kind` is a group of `_TOKEN`."""

    kind: str | None
    text: str


class Read(NamedTuple):
    """One place where an expression reads a field."""

    field: str
    is_compared_with_null: bool


def _tokens(source: str) -> list[Token]:
    """The parts of an expression that compiles, with an empty one at each end."""
    found = [Token(part.lastgroup, part.group()) for part in _TOKEN.finditer(source)]
    end = Token("end", "")
    return [end, *(token for token in found if token.kind != "space"), end]


def _variables(tokens: Sequence[Token], name: str | None = None) -> list[int]:
    """Places of names that stand for themselves: no member, no function, no word of CEL's own."""
    return [
        place
        for place, token in enumerate(tokens)
        if token.kind == "name"
        and (token.text == name if name else token.text not in _WORDS)
        and tokens[place - 1].text != "."
        and tokens[place + 1].text != "("
    ]


def _check_functions(where: str, tokens: Sequence[Token], program: Any) -> None:
    written = {
        token.text
        for token, following in pairwise(tokens)
        if token.kind == "name" and token.text not in _WORDS and following.text == "("
    }
    compiled = {name for name in program.functions() if name.isidentifier()}
    if strangers := sorted((written | compiled) - set(FUNCTIONS)):
        raise ValueError(
            f"{where} calls {strangers}; macros, regular expressions and functions of others are "
            f"not allowed, use {list(FUNCTIONS)}"
        )


def _check_variables(where: str, tokens: Sequence[Token], program: Any) -> None:
    """Refuses other names, and what the engine reads differently than we do."""
    written = {tokens[place].text for place in _variables(tokens)}
    if strangers := sorted((written ^ set(program.variables())) | (written - set(VARIABLES))):
        raise ValueError(
            f"{where} reads {strangers}; there are `r.<field>`, `flag.<field>` and `reason`"
        )


def _read(where: str, tokens: Sequence[Token], place: int, fields: Sequence[str]) -> Read:
    """The field that `r` or `flag` at `place` reads."""
    variable = tokens[place].text
    following = [token.text for token in tokens[place + 1 : place + 4]]
    if following[0] == "." and tokens[place + 2].kind == "name":
        name, end = following[1], place + 3
    elif following[0] == "[" and following[2] == "]" and _is_plain_text(following[1]):
        name, end = following[1][1:-1], place + 4
    else:
        raise ValueError(
            f"{where} uses {variable!r} as a whole; read a field of it, "
            f"`{variable}.distance` or `{variable}['field name']`"
        )
    if name not in fields:
        raise ValueError(f"{where} reads the unknown field {name!r}; the fields are {list(fields)}")
    after = tokens[end].text in ("==", "!=") and tokens[end + 1].text == "null"
    before = tokens[place - 1].text in ("==", "!=") and tokens[place - 2].text == "null"
    return Read(name, after or before)


def _check_nulls(where: str, tokens: Sequence[Token], reads: Sequence[Read]) -> None:
    """Refuses null beside anything but a field: such a rule would never match, and not say so."""
    nulls = sum(token == Token("name", "null") for token in tokens)
    if nulls > sum(read.is_compared_with_null for read in reads):
        raise ValueError(
            f"{where} compares null with something else than a field; write `r.distance == null`, "
            "or `!=`, without parentheses around the field"
        )


def _is_plain_text(text: str) -> bool:
    return re.fullmatch(r"""'[^'\\]*'|"[^"\\]*\"""", text) is not None


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MOST_RULES:
        raise ValueError(f"there are {len(names)} rules, at most {MOST_RULES} are allowed")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or DEFAULT_RULE in names:
        raise ValueError(
            f"rules are named {twice or [DEFAULT_RULE]}; each needs a name of its own, and "
            f"{DEFAULT_RULE!r} is the last one, which always answers"
        )
    if unfit := [name for name in names if not re.fullmatch(CONDITION_NAME, name)]:
        raise ValueError(
            f"a rule is named {unfit[0][:80]!r}; a name is 1 to 64 lower-case letters, digits or "
            "_, as answers and metrics show it"
        )


def _default(
    values: Mapping[str, Any], fields: Sequence[Field], outputs: Sequence[OutputSpec]
) -> list[Any]:
    """The constant answer; of a model of plain tensors, which has no fields, it may be null."""
    if not fields and all(value is None for value in values.values()):
        return [None for _ in outputs]
    return _answer(DEFAULT_RULE, values, outputs)


def _answer(where: str, values: Mapping[str, Any], outputs: Sequence[OutputSpec]) -> list[Any]:
    names = [spec.name for spec in outputs]
    if sorted(values) != sorted(names):
        raise ValueError(f"{where} answers {sorted(values)}; it must answer the outputs {names}")
    for spec in outputs:
        try:
            check_answer(spec, values[spec.name])
        except ValueError as error:
            raise ValueError(f"{where}, {error}") from error
    return [values[name] for name in names]


# values of the view

Reader = Callable[[float, Any], Any]
"""From the row's number and the record's value to what a rule sees; None is null."""


def _reader(field: Field, vocabulary: Sequence[str]) -> Reader:
    if field.kind == "category":
        return _category_reader(field, tuple(vocabulary))
    return _read_boolean if field.kind == "boolean" else _read_number


def _read_number(value: float, _: Any) -> float | None:
    return value if value == value else None  # noqa: PLR0124  (NaN is null)


def _read_boolean(value: float, _: Any) -> bool | None:
    return bool(value) if value == value else None  # noqa: PLR0124


def _category_reader(field: Field, vocabulary: tuple[str, ...]) -> Reader:
    normalize = normalizer(field.normalize)
    of = int if field.of == "integer" else str
    known = len(vocabulary)

    def read(value: float, own: Any) -> str | None:
        if value < known:
            return vocabulary[int(value)]
        if value > known or own.__class__ is not of:
            return None
        # Cut before and after: normalization may lengthen a text, and its cost grows with it.
        return normalize(_text(own))[:MOST_OF_A_TEXT]

    return read


def _text(own: int | str) -> str:
    """A caller's value as the engine can take it: no half of a character, no endless number."""
    if isinstance(own, int):
        return str(own) if own.bit_length() < MOST_OF_A_TEXT else ""
    return own[:MOST_OF_A_TEXT].encode(errors="replace").decode()
