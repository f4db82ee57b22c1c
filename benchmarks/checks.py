"""What checks and rules cost a row: checks are nodes of the graph, rules are asked one by one.

    python benchmarks/checks.py [--json FILE]

The graph of 24 fields and a boosted model, with 0, 1, 5 and 20 checks across fields, all of one
kind and of every kind; and the rules that a row is put to when the model does not answer it.
Ratios within one run; microseconds only tell the size.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from _measure import interleaved, ratio
from row import wide_record, wide_set, wide_table

from features import Boolean, Fitted, category, number, timestamp
from features.runtime import Session
from models.convert import convert
from models.manifest import OutputSpec, Rule
from models.rules import Rules

COUNTS = (1, 5, 20)
NUMBERS = [number(f"n{index}", low=0, high=1_000) for index in range(18)]
RULES = [
    Rule(name=f"rule_{index}", when=when, outputs={"probability": 0.5})
    for index, when in enumerate(
        [
            "r.n0 > 999.0 && r.c0 == 'text-3'",
            "flag.n1 == 'unknown' || r.n1 < 0.0",
            "reason == 'check:order' && r.b == true",
            "r.c1 in ['text-7', 'text-8'] && r.n2 + r.n3 > 1500.0",
            "r.c2 != 'text-1' && int(r.at) / 3600 % 24 == 25",
        ]
    )
]
"""None of them holds for the record that is asked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = wide_table(2_000)
    fitted, x = wide_set().fit_transform(table, quiet=True)
    target = np.nan_to_num(x[:, 0]) > np.nan_to_num(x[:, 1])
    booster = lgb.LGBMClassifier(n_estimators=100, num_leaves=15, n_jobs=1, verbose=-1)
    figures = measured(fitted, booster.fit(x, target))
    for name, value in figures.items():
        print(f"{name:45} {value:12,.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def measured(fitted: Fitted, booster: Any) -> dict[str, float]:
    model = convert(booster, len(fitted.feature_names)).model
    record = {**wide_record(0), "n3": 50.0}
    encoded = fitted.encode_records([record])
    graphs: dict[str, Sequence[Boolean]] = {"no checks": ()}
    graphs |= {f"{count} checks of one kind": of_one_kind(count) for count in COUNTS}
    graphs |= {f"{count} checks of all kinds": of_all_kinds(count) for count in COUNTS[1:]}
    built = {name: fitted.fuse(model, checks=checks) for name, checks in graphs.items()}
    sessions = {name: Session(graph.SerializeToString()) for name, graph in built.items()}
    rules = {f"{count} rules": compiled(fitted, RULES[:count]) for count in (1, len(RULES))}
    row, flags = encoded.rows[0], encoded.flags[0]
    calls: dict[str, Any] = {
        name: lambda session=session: session.run(encoded.rows)
        for name, session in sessions.items()
    }
    calls |= {
        name: lambda asked=asked: asked.first(row, flags, record, "deadline")
        for name, asked in rules.items()
    }
    taken = interleaved(calls)
    base = taken["no checks"]
    figures = {f"{name} / none": ratio(taken[name], base) for name in list(graphs)[1:]}
    figures |= {f"{name} / a run without checks": ratio(taken[name], base) for name in rules}
    figures |= {f"{name}, µs": min(times) for name, times in taken.items()}
    nodes = {name: len(graph.graph.node) for name, graph in built.items()}
    return figures | {f"{name}, nodes": float(count) for name, count in nodes.items()}


def of_one_kind(count: int) -> list[Boolean]:
    """Two numbers compared."""
    return [NUMBERS[index % 17] <= NUMBERS[index % 17 + 1] + index for index in range(count)]


def of_all_kinds(count: int) -> list[Boolean]:
    """Differences, nulls, texts, hours; what a reviewer of a pipeline would write."""
    at, text = timestamp("at", tz="Europe/Paris"), category("c0")
    kinds: list[Callable[[int], Boolean]] = [
        lambda index: NUMBERS[index % 17] - NUMBERS[index % 17 + 1] < 2_000 + index,
        lambda index: ~NUMBERS[index % 18].is_null() | (NUMBERS[(index + 1) % 18] > index),
        lambda index: text.lookup({"text-1": 1, "text-2": 2}, default=0) != index,
        lambda index: at.hour() >= index % 3 - 1,
    ]
    return [kinds[index % 4](index) for index in range(count)]


def compiled(fitted: Fitted, rules: Sequence[Rule]) -> Rules:
    output = OutputSpec(
        name="probability", kind="probability", dtype="float32", shape=(-1,), low=0, high=1
    )
    default = {"probability": 0.25}
    return Rules(rules, default, fitted.fields, fitted.vocabularies, (output,))


if __name__ == "__main__":
    sys.exit(main())
