"""What train.py of a project says: a model and a baseline for what is to be predicted."""

from typing import Any, Final

from server.starter.columns import Survey
from server.starter.libraries import Library
from server.starter.source import literal
from server.starter.target import Target

_TARGETS: Final = {
    "binary": '''\
    """1 where it is POSITIVE, else 0."""
    return np.asarray(table[TARGET].to_numpy() == POSITIVE, int)''',
    "classes": '''\
    """The class of each row."""
    return table[TARGET].to_numpy()''',
    "value": '''\
    """The number of each row."""
    return table[TARGET].cast(pa.float64()).to_numpy()''',
}
_SPLIT_BY_TIME: Final = '''\
    """The first nine tenths to train on, and the last, which nothing was chosen on, to measure."""
    first = len(table) * 9 // 10
    return table.slice(0, first), table.slice(first)'''
_SPLIT_BY_CHANCE: Final = '''\
    """Nine tenths to train on and one, drawn by chance, to measure; by TIME where there is one."""
    order = np.random.default_rng(0).permutation(len(table))
    first = len(table) * 9 // 10
    return table.take(order[:first]), table.take(order[first:])'''
_NOT_NEGATIVE: Final = """\
        # No target is below 0; with this, answers that are go to the rules. At most 1 % of the
        # training rows may be answered so: leave a model some room below, as (-20, None).
        # valid_range=(0, None),
"""


def training_code(survey: Survey, library: Library) -> dict[str, str]:
    """What stands at the places of the template."""
    target = survey.target
    is_value = target.task == "value"
    model = library.regressor if is_value else library.classifier
    slices = ", ".join(map(literal, survey.slices))
    return {
        "target": target.name,
        "library_import": f"{library.imported}\n" if library.imported else "",
        "sklearn_imports": _sklearn_imports(model, is_value=is_value),
        "model": model,
        "simple_model": "Ridge()" if is_value else "LogisticRegression(max_iter=1000)",
        "target_reading": _TARGETS[target.task].replace("POSITIVE", target.positive),
        "cross": "" if target.task == "classes" else ", target=y, folds=5, seed=0",
        "decision": _decision(target),
        "slices": f"[{slices}]",
        "split": _SPLIT_BY_TIME if survey.time else _SPLIT_BY_CHANCE,
        "off": "by more than a tenth of the spread" if is_value else "with another decision",
    }


def _sklearn_imports(model: str, *, is_value: bool) -> str:
    own = model.partition("(")[0]
    lines = [f"from sklearn.ensemble import {own}"] if own.startswith("Gradient") else []
    simple = "Ridge" if is_value else "LogisticRegression"
    return "\n".join([*lines, f"from sklearn.linear_model import {simple}"])


def _decision(target: Target) -> str:
    """How an answer becomes a decision; of a number what range it may have."""
    if target.task == "classes":
        return '        decision="classes",\n'
    if target.task == "value":
        return _NOT_NEGATIVE if target.values.min() >= 0 else ""
    no, yes = (literal(_said(value, target.name)) for value in target.classes)
    return f'        decision=[{{"below": 0.5, "is": {no}}}, {{"is": {yes}}}],\n'


def _said(value: Any, name: str) -> str:
    """A class as people say it: the column's name for 1 and true, `not_` before it for 0."""
    if value in (0, 1) and not isinstance(value, str):
        return name if value else f"not_{name}"
    return str(value)
