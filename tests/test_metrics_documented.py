"""docs/metrics.md knows every metric, and its queries are read and computed as it says."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from models.drift import psi, shares
from models.vocabulary import REPLACEMENT_REASONS
from server.catalogue import METRICS
from server.exposition import TEXT, Exposed, Exposition
from server.http_counters import PATHS, HttpCounters
from server.notes import CHECK, REPAIRED, RULE, RULE_ERROR
from server.regions import Region
from server.runtime import WorkerStatus
from server.series import Facts, ModelSeries
from server.series_budget import SeriesBudget
from server.swap_counters import SwapCounters
from server.worker_series import worker_page
from tests.counters import small_layout

DOCS = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text("utf-8")
TABLE = re.findall(r"^\| `(keelmark_\w+)` \| (\w+) \| (.*) \|$", DOCS, re.MULTILINE)
QUERIES = [
    query
    for block in re.findall(r"^```promql\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    for query in block.strip().split("\n\n")
]
[RULES] = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def promtool() -> str:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    return promtool


def test_the_table_has_every_metric_with_its_type_and_labels():
    listed = [(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in TABLE]
    assert listed == [(metric.name, metric.kind, metric.labels) for metric in METRICS]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_explained(metric):
    explained = DOCS.split("\n## ", maxsplit=2)[2]  # behind the table
    prose = re.sub(r"^```.*?^```", "", explained, flags=re.MULTILINE | re.DOTALL)
    assert f"`{metric.name}`" in prose


def test_the_docs_name_no_metric_that_is_none():
    named = set(re.findall(r"\bkeelmark_\w+", DOCS)) - {"keelmark_"}
    histograms = {metric.name for metric in METRICS if metric.kind == "histogram"}
    samples = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    assert named <= {metric.name for metric in METRICS} | samples


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric):
    assert re.fullmatch(r"keelmark_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_info") == (metric.kind == "info")
    assert metric.name.endswith("_seconds") == (metric.unit == "seconds")
    assert metric.unit is None or metric.family.endswith(f"_{metric.unit}")
    assert metric.help.endswith(".")
    assert not set(metric.help) & set('\\"\n')  # would have to be escaped


def test_every_metric_is_on_the_page_and_nothing_else():
    layout = small_layout()
    facts = Facts("ab", "flights@1+ab", "1.31.1", "team", 1.0, 0.5)
    exposed = Exposed(ModelSeries(layout, facts), [Region.anonymous(layout)])
    own = WorkerStatus(slot=0, pid=1, state="ready", connections=2, memory_bytes=3, cpu_seconds=0.5)
    workers = worker_page([own], [0.5, 0.0], dict.fromkeys(REPLACEMENT_REASONS, 0))
    budget = SeriesBudget(50_000).page()
    counters = SwapCounters()
    counters.deploys.at("flights", "canary")
    counters.wishes.stands("flights", "followed")
    swaps = counters.page(generation=3)
    page = Exposition([HttpCounters()]).page([exposed], TEXT, workers, budget, swaps).decode()
    assert re.findall(r"^# TYPE (keelmark_\w+)", page, re.MULTILINE) == [m.name for m in METRICS]
    labels = {
        name: tuple(re.findall(r'(\w+)="', line))
        for name, line in re.findall(r"^(keelmark_\w+)(.*) ", page, re.MULTILINE)
    }
    for metric in METRICS:
        if metric.kind != "histogram":
            assert labels[metric.name] == metric.labels
        else:
            assert labels[f"{metric.name}_bucket"] == (*metric.labels, "le")
            assert labels[f"{metric.name}_count"] == metric.labels


def test_series_are_as_many_as_the_docs_say():
    http = HttpCounters()
    assert len(http.requests) + len(http.errors) == 28 * (len(PATHS) + 1)
    layout = small_layout()
    series = ModelSeries(layout, Facts("ab", "flights@1+ab", "1.31.1", "team", 1.0, 0.5)).n_series
    measures, n_fields = layout.measures, len(layout.field_names)
    numbers = len(measures.with_moments)
    said = 224 + 2 * measures.n_bins + 4 * n_fields + len(measures.measures) + 4 * numbers
    kinds = [kind for kind, *_ in layout.notes]
    said += sum(kinds.count(kind) for kind in (REPAIRED, CHECK, RULE, RULE_ERROR))
    assert abs(series - said) < 5


def test_promtool_reads_every_query(promtool, tmp_path):
    rules = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}))  # JSON is YAML
    checked = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(QUERIES)} rules found" in checked.stdout


def test_the_rules_of_the_docs_compute_the_psi_of_models_drift(promtool, tmp_path):
    """Two replicas, a bin that training had and traffic has not, and the other way round."""
    reference = np.array([100, 400, 300, 0, 200])
    a_minute = np.array([[3, 4, 0, 2, 1], [0, 7, 0, 1, 5]])
    own = 'model="flights",version="7",field="distance"'
    inputs = [
        {
            "series": f'keelmark_field_values_total{{{own},bin="0{i}",instance="{replica}"}}',
            "values": f"0+{n}x120",
        }
        for replica, counts in enumerate(a_minute)
        for i, n in enumerate(counts)
    ] + [
        {
            "series": f'keelmark_field_reference_ratio{{{own},bin="0{i}",instance="{replica}"}}',
            "values": f"{share!r}+0x120",
        }
        for replica in (0, 1)
        for i, share in enumerate(shares(reference).tolist())
    ]
    # increase() over 60 minutes of one scrape a minute is exactly 60 steps.
    expected = psi(reference, 60 * a_minute.sum(axis=0))
    tested = {
        "expr": f"abs(keelmark:field_psi:1h - {expected!r}) < bool 1e-6",
        "eval_time": "100m",
        "exp_samples": [
            {"labels": '{model="flights",version="7",field="distance"}', "value": 1},
        ],
    }
    rules, test = tmp_path / "rules.yml", tmp_path / "test.yml"
    rules.write_text(RULES)
    test.write_text(
        json.dumps(
            {
                "rule_files": [str(rules)],
                "evaluation_interval": "1m",
                "tests": [
                    {"interval": "1m", "input_series": inputs, "promql_expr_test": [tested]},
                ],
            }
        )
    )
    ran = subprocess.run(
        [promtool, "test", "rules", test], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
