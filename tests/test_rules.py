"""Rules: what they see, when they match, and everything that they may not say."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ladder import RULES
from models.manifest import OutputSpec, Rule
from models.outputs import check_answer
from models.policies import repair
from models.rules import FUNCTIONS, MOST_ADDITIONS, MOST_CHARACTERS, MOST_RULES, Rules
from tests.rungs import BAD, DEFAULT, FITTED, GOOD, LOST, SMALL, compiled, encoded, ladder, said


def rule(when: str, name: str = "one", answer: Any = 0.75) -> Rule:
    return Rule(name=name, when=when, outputs={"probability": answer})


def asked(
    rules: Rules, changes: Mapping[str, Any] | None = None, reason: str = "deadline"
) -> tuple[int, list[int]]:
    """The rule that answers a record, and those that raised."""
    record = {**GOOD, **(changes or {})}
    request = encoded(record)
    place, raised = rules.first(request.rows[0], request.flags[0], record, reason)
    return place, [one.rule for one in raised]


def matches(when: str, changes: Mapping[str, Any] | None = None, reason: str = "deadline") -> bool:
    place, raised = asked(compiled(rule(when)), changes, reason)
    assert raised == []
    return place == 0


# what they see


@pytest.mark.parametrize(
    "when",
    [
        "r.size == 1.0",
        "r['size'] == 1.0",
        'r["in stock"] == 3.0',
        "r.colour == 'red'",
        "r.gate == '1'",
        "r.is_new",
        "r.is_new == true",
        "r.at == 1704067200.0",
        "r.seen == 5.0",
        "int(r.at) / 3600 % 24 == 0",
        "flag.size == 'ok' && flag['in stock'] == 'ok'",
        "reason == 'deadline'",
        "r.colour in ['red', 'blue'] && r.size + r.weight <= 3.0",
        "r.colour.startsWith('re') && size(r.colour) == 3",
        "r . size // a comment on r.nothing\n > 0.5",
        'reason != "r.size > 3.0 && has(r.size)"',
        "reason != r'\\r.nothing'",
    ],
)
def test_a_good_record_is_seen_as_it_is(when: str):
    assert matches(when)
    assert not matches(f"!({when})")


@pytest.mark.parametrize(("name", "trouble"), BAD)
def test_a_bad_value_is_null_and_flagged(name: str, trouble: str):
    bad = {name: BAD[name, trouble]}  # pyright: ignore[reportArgumentType]
    assert matches(f"flag['{name}'] == '{trouble}'", bad)
    assert matches(f"r['{name}'] == null", bad) is (trouble != "unknown")
    assert matches(f"null != r['{name}']", bad) is (trouble == "unknown")


def test_a_text_that_no_vocabulary_has_is_the_callers_own():
    assert matches("r.colour == 'green'", {"colour": " green "}), "normalized as declared"
    assert matches("r.gate == '17'", {"gate": 17})
    assert matches("r.gate == '-3'", {"gate": -3})


def test_a_long_text_is_cut():
    assert matches("size(r.colour) == 1024", {"colour": "x" * 5000})
    assert matches("size(r.colour) == 1023", {"colour": " " + "x" * 5000})


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "", "\U0001f600" * 2000])
def test_no_text_of_a_caller_makes_a_rule_raise(text: str):
    assert matches("r.colour != 'red'", {"colour": text})


def test_no_number_of_a_caller_makes_a_rule_raise():
    assert matches("r.gate != '1'", {"gate": 10**5000})


def test_a_table_has_no_texts_of_its_own():
    request = encoded({**GOOD, "colour": "green"})
    rules = compiled(rule("r.colour == null && flag.colour == 'unknown'"))
    assert rules.first(request.rows[0], request.flags[0], {}, "deadline")[0] == 0


def test_they_see_what_the_model_would_get():
    """The row of the plan: with the value that a policy puts in."""
    rungs = ladder(
        {"size": {"missing": repair(8.0)}, "colour": {"missing": repair("blue")}},
        rules=[rule("r.size == 8.0 && r.colour == 'blue' && flag.size == 'missing'")],
    )
    record = {**GOOD, "size": None, "colour": None}
    answers = rungs.judge(rungs.plan(encoded(record), [record]), None)
    assert answers.rule == {0: "one"}


@pytest.mark.parametrize(
    ("reason", "changes", "failed"),
    [
        ("in stock:invalid", {"in stock": "x", "colour": 3}, "model_error"),
        ("overload", {}, "overload"),
        ("too_many_repaired", {"size": 99.0, "weight": 99.0}, "model_error"),
    ],
)
def test_they_are_told_the_reason_that_decided(reason: str, changes: Any, failed: str):
    rungs = ladder(max_repaired=1, rules=[rule(f"reason == '{reason}'")])
    plan = rungs.plan(encoded({**GOOD, **changes}))
    assert rungs.judge(plan, None, failed=failed).rule == {0: "one"}


# when they match


def test_the_first_that_matches_answers():
    rules = compiled(rule("r.size > 5.0", "a"), rule("r.size > 0.5", "b"), rule("true", "c"))
    assert rules.names == ("a", "b", "c", "default")
    assert [asked(rules, {"size": size})[0] for size in (9.0, 1.0, 0.0)] == [0, 1, 2]


def test_the_default_answers_when_none_does():
    assert asked(compiled(rule("false")))[0] == 1
    assert asked(compiled())[0] == 0
    assert compiled().answers == ([DEFAULT],)


@pytest.mark.parametrize(
    "when",
    [
        "r.size < 5.0",
        "!(r.size < 5.0)",
        "r.size != 5.0",
        "r.weight == 2.0 || r.size < 5.0",
        "r.size in [1.0] || true",
        "r.weight == null || r.size < 5.0",
    ],
)
def test_a_rule_that_needs_a_null_does_not_match(when: str):
    assert not matches(when, {"size": None})


@pytest.mark.parametrize(
    "when",
    [
        "r.size == null",
        "null == r['size']",
        "r.size == null || r.size < 5.0",
        "!(r.size != null && r.size < 5.0)",
    ],
)
def test_a_rule_that_asks_for_null_is_asked(when: str):
    assert matches(when, {"size": None})


@pytest.mark.parametrize(
    "when",
    [
        "1 / 0 == 1",
        "r.size + 1 > 0.0",
        "r.colour > 1.0",
        "r.size",
        "'true'",
        "r.size != null || r.size > 1.0",
        "int(r.size * 1e300) > 0",
        "[1][7] == 1",
        "r.colour.nothing == 1",
    ],
)
def test_a_rule_that_gives_no_answer_does_not_match_and_is_counted(when: str):
    rules = compiled(rule("false", "a"), rule(when, "b"), rule("true", "c"), rule("1/0==1", "d"))
    changes = {"size": None} if "null" in when else {}
    assert asked(rules, changes) == (2, [1])
    request = encoded({**GOOD, **changes})
    raising = rules.raising(request.rows[0], request.flags[0], GOOD, "deadline")
    assert [one.rule for one in raising] == [1, 3], "also those that are not reached"
    assert all(one.error for one in raising)


def test_the_ladder_counts_every_rule_that_raises():
    rungs = ladder(rules=[rule("1 / 0 == 1", "broken"), SMALL, LOST])
    plan = rungs.plan(encoded(GOOD, {**GOOD, "size": 7.0}))
    answers = rungs.judge(plan, None)
    assert answers.outcome == [RULES, RULES]
    assert answers.rule == {0: "small", 1: "default"}
    assert answers.rule_errors == {0: (0,), 1: (0,)}
    assert answers.values == [[0.125, DEFAULT]]
    below = rungs.below(plan, "operator")
    assert [(one.row, one.rule) for one in below.rule_errors] == [(0, "broken"), (1, "broken")]
    assert "ZeroDivisionError" in below.rule_errors[0].error


def test_only_rows_that_reach_them_are_asked():
    rungs = ladder({"colour": {"unknown": "rules"}}, rules=[rule("1 / 0 == 1")])
    plan = rungs.plan(encoded(GOOD, {**GOOD, "colour": "green"}))
    assert rungs.judge(plan, said(0.1, 0.1)).rule_errors == {1: (0,)}


def test_the_ladder_shows_them_each_row_its_own_record():
    rungs = ladder(rules=[rule("r.colour == 'green'")])
    records = [{**GOOD, "colour": text} for text in ("green", "pink", " green")]
    answers = rungs.judge(rungs.plan(encoded(*records), records), None)
    assert answers.rule == {0: "one", 1: "default", 2: "one"}


def test_several_threads_may_ask():
    rules, found = compiled(SMALL), list[int]()
    threads = [threading.Thread(target=lambda: found.append(asked(rules)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 4


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))


@given(st.fixed_dictionaries(dict.fromkeys(GOOD, VALUES)))
def test_the_ladder_answers_whatever_is_sent(record: dict[str, Any]):
    rungs = ladder(
        rules=[
            rule("r.colour.contains('x') || size(r.gate) > 2 || r.is_new", "a"),
            rule("r.at > 0.0 && r.seen > 0.0 && r['in stock'] > r.size", "b"),
            rule("flag.size == 'invalid' && r.weight == null", "c"),
        ]
    )
    plan = rungs.plan(encoded(record), [record], forced="rules")
    answers = rungs.judge(plan, None)
    assert answers.outcome == [RULES]
    assert answers.values[0][0] in (0.75, DEFAULT)
    assert answers.rule_errors == {}


# what they may not say


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("[r.size].all(x, x > 1.0)", "calls ['all']"),
        ("[r.size].exists(x, x > 1.0)", "calls ['exists']"),
        ("[r.size].exists_one(x, x > 1.0)", "calls ['exists_one']"),
        ("size([r.size].map(x, x)) > 0", "calls ['map']"),
        ("size([r.size].filter(x, x > 1.0)) > 0", "calls ['filter']"),
        ("has(r.size)", "calls ['has']"),
        ("cel.bind(x, r.size, x > 1.0)", "calls ['bind']"),
        ("r.colour.matches('(a*)*')", "calls ['matches']"),
        ("matches(r.colour, 'a')", "calls ['matches']"),
        ("sleep(10)", "calls ['sleep']"),
        ("r.length > 1.0", "unknown field 'length'"),
        ("r['length'] > 1.0", "unknown field 'length'"),
        ("flag.length == 'ok'", "unknown field 'length'"),
        ("r == null", "as a whole"),
        ("null", "compares null"),
        ("(r.size) == null", "compares null"),
        ("r.size in [1.0, null]", "compares null"),
        ("r.size == null || null in [r.weight]", "compares null"),
        ("r.size <= null", "compares null"),
        ("reason == null", "compares null"),
        ("r[reason] == 1.0", "as a whole"),
        ("size(flag) > 1", "as a whole"),
        ("row.size > 1.0", "reads ['row']"),
        ("x > 1", "reads ['x']"),
        (".r.size > 1.0", "reads"),
        ("r.size >", "is no CEL expression"),
        ("", "is no CEL expression"),
        ("(" * 400 + "true" + ")" * 400, "is no CEL expression"),
        ("true" + " " * 1000, "1004 characters, at most 1000"),
    ],
)
def test_refused_conditions(when: str, words: str):
    with pytest.raises(ValueError, match="'one'") as caught:
        compiled(rule(when))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b", "a"], "named ['a']"),
        (["default"], "named ['default']"),
        ([""], "is named ''"),
        (["Far"], "is named 'Far'"),
        (["far off"], "is named 'far off'"),
        (["far\n"], "is named 'far"),
        (["f" * 65], "1 to 64 lower-case letters"),
        ([str(n) for n in range(MOST_RULES + 1)], "51 rules, at most 50"),
    ],
)
def test_refused_names(names: list[str], words: str):
    with pytest.raises(ValueError, match=r"name|rules") as caught:
        compiled(*(rule("true", name) for name in names))
    assert words in str(caught.value)


def test_what_they_may_call_is_documented():
    said = Path(__file__).parent.parent.joinpath("docs", "concepts.md").read_text("utf-8")
    for name in FUNCTIONS:
        assert f"`{name}`" in said or name.startswith("get")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_they_may_call_is_there(name: str):
    moment = "(timestamp('1970-01-01T00:00:00Z') + duration('90061s'))"
    calls = {
        "size": "size(r.colour) == 3",
        "contains": "r.colour.contains('e')",
        "startsWith": "r.colour.startsWith('re')",
        "endsWith": "r.colour.endsWith('ed')",
        "int": "int(r.size) == 1",
        "double": "double('1.5') > r.size",
        "string": "string(int(r.size)) == '1'",
    }
    of_time = f"{moment}.{name}() >= 0" if name.startswith("get") else f"{moment} == {moment}"
    assert matches(calls.get(name, of_time))


def joined(part: str, sign: str, around: str = "{}") -> str:
    """As many parts as a rule has room for."""
    count = (MOST_CHARACTERS - len(around) + 2 + len(sign)) // (len(part) + len(sign))
    return around.format(sign.join([part] * count))


LONGEST = "\U0001f600" * 2_000


@pytest.mark.parametrize(
    ("when", "text"),
    [
        ("size(" + "+".join(["r.colour"] * (MOST_ADDITIONS + 1)) + ") < 1", LONGEST),
        (joined("duration(r.colour) > duration('1s')", "||"), "1.1ns" * 204 + "x"),
        (joined("int(r.colour) > 1", "||"), "1" * 1_024),
        (joined("r.colour.contains('xy')", "||"), "x" * 1_024),
        (joined("r.colour < r.colour", "||"), LONGEST),
        (joined("r.colour", ",", "'x' in [{}]"), LONGEST),
        (joined("string(r.size)", ",", "'x' in [{}]"), "red"),
        ("!" * 960 + "true && 1.0 > r.weight", LONGEST),
    ],
)
def test_the_slowest_that_can_be_written_end_soon(when: str, text: str):
    """Half a millisecond each; ten times that is allowed, for machines that are busy."""
    record = {**GOOD, "colour": text}
    request, rules = encoded(record), compiled(rule(when))
    taken: list[float] = []
    for _ in range(7):
        began = time.perf_counter()
        assert rules.first(request.rows[0], request.flags[0], record, "deadline")[0] == 1
        taken.append(time.perf_counter() - began)
    assert min(taken) < 5e-3


def test_more_additions_than_allowed_are_refused():
    when = "+".join(["r.size"] * (MOST_ADDITIONS + 1)) + " > 0.0 && reason != '+++'"
    assert matches(when)
    with pytest.raises(ValueError, match="adds 21 times, at most 20"):
        compiled(rule("1.0 + " + when))


def test_as_many_as_are_allowed():
    rules = compiled(*(rule("r.size > 5.0", str(n)) for n in range(MOST_RULES)))
    assert asked(rules)[0] == MOST_RULES


PROBABILITIES = OutputSpec(
    name="o", kind="class_probabilities", dtype="float32", shape=(-1, 2), low=0, high=1
)
LABEL = OutputSpec(name="o", kind="label", dtype="string", classes=("a", "b"))
NUMBERS = OutputSpec(name="o", kind="label", dtype="int64", classes=(0, 1))
VALUE = OutputSpec(name="o", kind="value", dtype="float32")
VECTOR = OutputSpec(name="o", kind="vector", dtype="float32", shape=(-1, -1))


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        (VALUE, 1), (VALUE, -2.5), (VECTOR, [1.0, 2.0, 3.0]), (PROBABILITIES, None),
        (PROBABILITIES, [0.25, 0.75]), (LABEL, "a"), (NUMBERS, 1),
    ],
)  # fmt: skip
def test_answers_that_fit(spec: OutputSpec, answer: Any):
    check_answer(spec, answer)


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        (VALUE, None), (VALUE, "1"), (VALUE, True), (VALUE, [1.0]), (VALUE, float("nan")),
        (VALUE, float("inf")), (VALUE, 10**400), (VALUE, {}), (VECTOR, 1.0),
        (VECTOR, []), (VECTOR, [[1.0]]), (VECTOR, ["1"]), (PROBABILITIES, [0.5]),
        (PROBABILITIES, [0.5, 1.5]),
        (PROBABILITIES, [0.5, [0.5]]), (PROBABILITIES, [0.5, None]), (LABEL, "c"), (LABEL, 1),
        (LABEL, None), (NUMBERS, True), (NUMBERS, 2), (NUMBERS, 1.0),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit(spec: OutputSpec, answer: Any):
    with pytest.raises(ValueError, match="output 'o'"):
        check_answer(spec, answer)
    usual = {VALUE: 0.0, VECTOR: [0.0], PROBABILITIES: None, LABEL: "a", NUMBERS: 0}[spec]
    one = Rule(name="one", when="true", outputs={"o": answer})
    with pytest.raises(ValueError, match="rule 'one', output 'o'"):
        Rules([one], {"o": usual}, FITTED.fields, {}, [spec])
    with pytest.raises(ValueError, match="default, output 'o'"):
        Rules([], {"o": answer}, FITTED.fields, {}, [spec])


@pytest.mark.parametrize("outputs", [{}, {"score": 0.5}, {"probability": 0.5, "score": 0.5}])
def test_a_rule_answers_every_output_and_no_other(outputs: dict[str, Any]):
    with pytest.raises(ValueError, match="must answer the outputs"):
        compiled(Rule(name="one", when="true", outputs=outputs))


def test_the_answers_keep_their_order():
    specs = (VALUE, OutputSpec(name="a", kind="value", dtype="float32"))
    rules = Rules([], {"a": 1.0, "o": 2.0}, FITTED.fields, {}, specs)
    assert rules.answers == ([2.0, 1.0],)
