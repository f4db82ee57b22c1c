"""The page says what was counted, in words that Prometheus reads."""

import itertools
import mmap
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from models.bins import CodeBins
from models.measures import Measures
from models.vocabulary import ERROR_CODES, OUTCOMES, REASONS, RUNGS, STAGES, TROUBLES
from server.catalogue import (
    METRICS,
    OF_DEPLOYS,
    OF_SWAPS,
    OF_WISHES,
    OF_WORKERS,
    SERIES_LIMIT,
    SERIES_REFUSED,
)
from server.exposition import OPENMETRICS, TEXT, Exposed, Exposition, Format, negotiated
from server.http_counters import HttpCounters, read_http
from server.layout import Layout
from server.regions import Counter, Region, Totals, read_totals
from server.series import Facts, ModelSeries
from tests.counters import (
    CARRIERS,
    DECISIONS,
    FIELDS,
    OUTPUT,
    SlowCount,
    count,
    measure,
    small_layout,
    some_requests,
)

PATHS = ("/predict/{model}", "/models")
FACTS = Facts(
    digest="ab" * 32,
    features="flights@1+0123456789ab",
    onnxruntime="1.31.1",
    owner='the "late" team, 100%\n',
    loaded=1_763_722_000.25,
    trained=1_763_000_000.0,
)
BOTH = pytest.mark.parametrize("form", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(page: bytes, form: Format) -> Samples:
    """Values by name and labels, as prometheus_client reads them; no series may come twice."""
    parse: Callable[[str], Any] = openmetrics_families if form.is_openmetrics else text_families
    found: Samples = {}
    for family in parse(page.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def own_lines(page: bytes) -> list[str]:
    return [line for line in page.decode().splitlines() if line.startswith("keelmark_")]


class Server:
    """Two versions of a model and their counters, and what the page must say of them."""

    def __init__(self) -> None:
        self.http = HttpCounters(PATHS)
        self.exposition = Exposition([self.http])
        self.layouts = [small_layout("7"), small_layout("8", objective_seconds=None)]
        self.regions = [Region.anonymous(layout) for layout in self.layouts]
        self.series = [ModelSeries(layout, FACTS) for layout in self.layouts]
        self.slow = [SlowCount(layout) for layout in self.layouts]

    def count(self, n_requests: int, *, of: int, seed: int = 0) -> None:
        requests = some_requests(np.random.default_rng(seed), n_requests)
        counter = Counter(self.regions[of])
        for asked in requests:
            count(counter, [asked])
        self.slow[of].add(requests)

    def page(self, form: Format = TEXT) -> bytes:
        exposed = [
            Exposed(series, [region])
            for series, region in zip(self.series, self.regions, strict=True)
        ]
        return self.exposition.page(exposed, form)

    def samples(self, form: Format = TEXT) -> Samples:
        return samples_of(self.page(form), form)


@pytest.fixture
def server() -> Server:
    server = Server()
    server.count(60, of=0)
    server.count(25, of=1, seed=1)
    return server


def by_labels(slow: SlowCount) -> Iterator[tuple[str, dict[str, str], float]]:
    """Everything that was counted, written out by hand."""
    families, own = slow.families, {"model": "flights", "version": slow.layout.version}

    def each(name: str, counts: np.ndarray, **labels: Any) -> Iterator[tuple[str, Any, float]]:
        for values, n in zip(itertools.product(*labels.values()), counts.ravel(), strict=True):
            yield name, own | dict(zip(labels, values, strict=True)), float(n)

    yield from each("keelmark_predictions_total", families["outcomes"], outcome=OUTCOMES)
    yield from each("keelmark_fallbacks_total", families["fallbacks"], rung=RUNGS, reason=REASONS)
    yield from each("keelmark_decisions_total", families["decisions"], decision=DECISIONS)
    yield from each("keelmark_deadline_missed_total", families["deadline_missed"])
    yield from each("keelmark_late_requests_total", families["late_requests"])
    noted = families["notes"]
    for place, labels in enumerate(
        [
            {"field": ["distance"], "trouble": ["missing"]},
            {"field": ["distance"], "trouble": ["out_of_bounds"]},
            {"field": ["is_weekend"], "trouble": ["invalid"]},
        ]
    ):
        yield from each("keelmark_field_repaired_total", noted[[place]], **labels)
    checks, rules = ["short_enough", "in_order"], ["evening", "default"]
    yield from each("keelmark_checks_failed_total", noted[3:5], check=checks)
    yield from each("keelmark_rule_answers_total", noted[5:7], rule=rules)
    yield from each("keelmark_rule_errors_total", noted[[7]], rule=["evening"])
    output = {"output": ["probability"], "trouble": ["not_finite", "out_of_range"]}
    yield from each("keelmark_output_invalid_total", noted[8:], **output)
    yield from each("keelmark_extra_keys_total", families["extra_keys"])
    yield from each(
        "keelmark_field_quality_total",
        families["quality"],
        field=[f.name for f in FIELDS],
        trouble=TROUBLES,
    )
    bins, field_values = families["bins"], "keelmark_field_values_total"
    four, three = ["00", "01", "02", "03"], ["00", "01", "02"]
    yield from each(field_values, bins[:4], field=["distance"], bin=four)
    yield from each(field_values, bins[4:6], field=["is_weekend"], bin=["false", "true"])
    yield from each(field_values, bins[6:10], field=["carrier"], bin=CARRIERS.labels)
    yield from each("keelmark_output_values_total", bins[10:], output=["probability"], bin=three)
    for row, (subject, name) in enumerate([("field", "distance"), ("output", "probability")]):
        labels = {subject: [name], "sign": ["positive", "negative"]}
        sums, squares = slow.moments[row, :2], slow.moments[row, 2:]
        yield from each(f"keelmark_{subject}_standardized_total", sums, **labels)
        yield from each(f"keelmark_{subject}_standardized_squares_total", squares, **labels)


@BOTH
def test_every_counter_on_the_page_is_what_was_counted(server, form):
    samples = server.samples(form)
    for slow in server.slow:
        for name, labels, value in by_labels(slow):
            assert samples.pop((name, frozenset(labels.items()))) == value, (name, labels)
    left = {name for name, _ in samples if name.startswith("keelmark_") and name.endswith("_total")}
    assert left == {
        "keelmark_requests_total",
        "keelmark_errors_total",
        "keelmark_abandoned_runs_total",
        "keelmark_breaker_openings_total",
        "keelmark_golden_rows_total",
        "keelmark_shadow_rows_total",
        "keelmark_shadow_compared_total",
        "keelmark_runner_busy_seconds_total",
        "keelmark_runner_deaths_total",
        "keelmark_spare_work_total",
    }


@BOTH
def test_histograms_are_cumulative_and_count_what_their_buckets_hold(server, form):
    samples = server.samples(form)
    for slow in server.slow:
        layout, families = slow.layout, slow.families
        own = {"model": "flights", "version": layout.version}
        histograms: list[tuple[str, dict[str, str], Any, Any, int]] = [
            (
                "keelmark_request_duration_seconds",
                own,
                layout.total_bounds,
                families["total_buckets"],
                families["durations_ns"][-1],
            )
        ]
        histograms += [
            (
                "keelmark_stage_duration_seconds",
                own | {"stage": stage},
                layout.stage_bounds,
                families["stage_buckets"][i],
                families["durations_ns"][i],
            )
            for i, stage in enumerate(STAGES)
        ]
        for name, labels, bounds, buckets, duration in histograms:
            les = [*map(repr, bounds), "+Inf"]
            below = [
                samples[f"{name}_bucket", frozenset((labels | {"le": le}).items())] for le in les
            ]
            assert below == np.cumsum(buckets).tolist()
            assert samples[f"{name}_count", frozenset(labels.items())] == buckets.sum()
            assert samples[f"{name}_sum", frozenset(labels.items())] == duration / 1e9


def test_the_objective_of_a_bundle_is_a_bound_of_its_requests_alone(server):
    page = server.page().decode()
    assert 'request_duration_seconds_bucket{model="flights",version="7",le="0.02"}' in page
    assert 'request_duration_seconds_bucket{model="flights",version="8",le="0.02"}' not in page
    assert 'stage="run",le="0.02"' not in page


@BOTH
def test_training_shares_are_never_zero_and_sum_to_one(server, form):
    samples = server.samples(form)
    own = {("model", "flights"), ("version", "7"), ("field", "carrier")}
    shares = [
        samples["keelmark_field_reference_ratio", frozenset({*own, ("bin", label)})]
        for label in CARRIERS.labels
    ]
    assert shares == [(n + 0.5) / 62 for n in (0, 10, 20, 30)]
    assert samples["keelmark_field_reference_rows", frozenset(own)] == 60
    output = {("model", "flights"), ("version", "7"), ("output", "probability")}
    assert samples["keelmark_output_reference_rows", frozenset(output)] == 30
    ratios = [v for (name, _), v in samples.items() if name.endswith("output_reference_ratio")]
    assert sum(ratios) == pytest.approx(2)


@BOTH
def test_the_page_says_which_bundle_is_loaded(server, form):
    samples = server.samples(form)
    own = {"model": "flights", "version": "7"}
    said = own | {name: getattr(FACTS, name) for name in FACTS._fields[:4]}
    assert samples["keelmark_model_info", frozenset(said.items())] == 1
    loaded = "keelmark_model_loaded_timestamp_seconds"
    trained = "keelmark_model_trained_timestamp_seconds"
    assert samples[loaded, frozenset(own.items())] == FACTS.loaded
    assert samples[trained, frozenset(own.items())] == FACTS.trained


def test_a_bundle_whose_training_time_nobody_knows_has_no_such_series():
    series = ModelSeries(small_layout(), FACTS._replace(trained=None))
    region = Region.anonymous(small_layout())
    page = Exposition([HttpCounters(PATHS)]).page([Exposed(series, [region])])
    assert b"trained" not in page


def test_a_sum_does_not_go_down_when_its_addends_are_added_in_another_order():
    """Prometheus takes a counter that is less than it was, by however little, for a new one."""
    layout = small_layout()
    series = ModelSeries(layout, FACTS)
    totals = Totals.nothing(layout)
    totals.moments[:] = 0.1 + 0.2 + 0.3
    before = series.render(totals)
    totals.moments[:] = 0.3 + 0.2 + 0.1
    assert (0.3 + 0.2 + 0.1) < (0.1 + 0.2 + 0.3)
    assert series.render(totals) == before
    totals.moments[:] = 0.7
    assert series.render(totals) != before


@BOTH
def test_every_series_is_there_at_0_before_the_first_request(form):
    idle, busy = Server(), Server()
    busy.count(100, of=0)
    busy.http.count("/models", 404, "unknown_model")
    before, after = idle.samples(form), busy.samples(form)
    assert set(before) == set(after)
    counters = ("_total", "_bucket", "_sum", "_count")
    own = {key: value for key, value in before.items() if key[0].startswith("keelmark_")}
    assert {value for (name, _), value in own.items() if name.endswith(counters)} == {0}


def test_rows_not_folded_yet_are_on_the_page_and_reading_writes_nothing(server):
    region = server.regions[0]
    assert region.head > region.tail
    before = bytes(region.memory)
    server.page()
    assert bytes(region.memory) == before


def test_a_page_after_a_fold_says_the_same(server):
    samples = server.samples()
    for region in server.regions:
        counter = Counter(region)
        while counter.fold():
            pass
    again = server.samples()
    changing = ("keelmark_metrics_render", "process_", "python_")
    assert {k: v for k, v in samples.items() if not k[0].startswith(changing)} == {
        k: v for k, v in again.items() if not k[0].startswith(changing)
    }


def test_workers_of_one_bundle_are_summed():
    layout = small_layout()
    regions, slow = [Region.anonymous(layout) for _ in range(3)], SlowCount(layout)
    https = [HttpCounters(PATHS) for _ in range(3)]
    for seed, (region, http) in enumerate(zip(regions, https, strict=True)):
        requests = some_requests(np.random.default_rng(seed), 10)
        for asked in requests:
            count(Counter(region), [asked])
            http.count("/predict/{model}", 200)
        slow.add(requests)
    page = Exposition(https).page([Exposed(ModelSeries(layout, FACTS), regions)])
    samples = samples_of(page, TEXT)
    for name, labels, value in by_labels(slow):
        assert samples[name, frozenset(labels.items())] == value
    labels = frozenset({("path", "/predict/{model}"), ("status", "200")})
    assert samples["keelmark_requests_total", labels] == 30


@BOTH
def test_all_lines_of_a_metric_stand_together(server, form):
    described = [
        line.split()[2] for line in server.page(form).decode().splitlines() if line[:7] == "# TYPE "
    ]
    assert len(described) == len(set(described))
    names = [line.split("{")[0].split()[0] for line in own_lines(server.page(form))]
    base = [
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names
    ]
    of_the_runtime = {*OF_WORKERS, *OF_SWAPS, *OF_DEPLOYS, *OF_WISHES, SERIES_LIMIT, SERIES_REFUSED}
    assert len(list(itertools.groupby(base))) == len(METRICS) - len(of_the_runtime)


@BOTH
def test_the_page_counts_its_own_series(server, form):
    page = server.page(form)
    [line] = [line for line in own_lines(page) if line.startswith("keelmark_metrics_series ")]
    assert int(line.split()[1]) == len(own_lines(page))
    [line] = [line for line in own_lines(page) if line.startswith("keelmark_metrics_render")]
    assert 0 < float(line.split()[1]) < 10


@BOTH
def test_the_process_is_on_the_page(server, form):
    names = {name for name, _ in server.samples(form)}
    assert {"process_cpu_seconds_total", "python_gc_collections_total"} <= names
    assert server.page(form).decode().endswith("# EOF\n") == form.is_openmetrics


def test_promtool_accepts_the_page(server):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=server.page(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_an_output_that_is_not_measured_leaves_its_metrics_out():
    measures = Measures(
        [measure("field", "carrier", CARRIERS)], fields=FIELDS, zones={}, outputs=[]
    )
    layout = Layout("m", "1", field_names=[f.name for f in FIELDS], measures=measures)
    region = Region.anonymous(layout)
    Counter(region).write(
        np.zeros((1, 4)), np.zeros((1, 4), np.uint8), np.zeros((1, 0)), 0.0, [0], [255], [255]
    )
    page = Exposition([HttpCounters(PATHS)]).page([Exposed(ModelSeries(layout, FACTS), [region])])
    samples_of(page, TEXT)
    assert b"keelmark_output" not in page
    assert b"keelmark_decisions" not in page
    assert b"standardized" not in page


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=50)
@given(st.lists(TEXTS, min_size=1, max_size=4, unique=True), TEXTS)
@BOTH
def test_any_text_may_be_a_label(form, texts, owner):
    bins = CodeBins(labels=tuple(texts), bin_of_code=tuple(range(len(texts))))
    measures = Measures(
        [measure("field", "carrier", bins)], fields=FIELDS, zones={}, outputs=[OUTPUT]
    )
    layout = Layout("flights", "7", field_names=[f.name for f in FIELDS], measures=measures)
    series = ModelSeries(layout, FACTS._replace(owner=owner))
    region = Region(layout, bytearray(layout.n_bytes))
    page = Exposition([HttpCounters(PATHS)]).page([Exposed(series, [region])], form)
    samples = samples_of(page, form)
    seen = [
        dict(labels)["bin"] for name, labels in samples if name == "keelmark_field_values_total"
    ]
    assert sorted(seen) == sorted(texts)
    [info] = [dict(labels) for name, labels in samples if name == "keelmark_model_info"]
    assert info["owner"] == owner


def test_half_a_surrogate_pair_does_not_break_the_page():
    series = ModelSeries(small_layout(), FACTS._replace(owner="\ud800"))
    region = Region.anonymous(small_layout())
    page = Exposition([HttpCounters(PATHS)]).page([Exposed(series, [region])])
    assert rb'owner="\\ud800"' in page


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("Application/OpenMetrics-Text; q=0.5, text/plain; Q=0.4", OPENMETRICS),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=much", TEXT),
        ("application/openmetrics-text,*/*", OPENMETRICS),
        ("application/openmetrics-text;q=0.2,*/*;q=0.9", TEXT),
        ("*/*;q=0.9,text/plain;q=0.1,application/openmetrics-text;q=0.2", OPENMETRICS),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept, form):
    assert negotiated(accept) == form


# The workers' own counters


def test_requests_and_errors_are_counted_by_path():
    http = HttpCounters(PATHS)
    http.count("/predict/{model}", 200)
    http.count("/predict/{model}", 200)
    http.count("/predict/{model}", 422, "rejected_record")
    http.count("/models", 404, "unknown_model")
    counts = dict(zip((*http.requests, *http.errors), http.read().tolist(), strict=True))
    assert {series: n for series, n in counts.items() if n} == {
        ("/predict/{model}", 200): 2,
        ("/predict/{model}", 422): 1,
        ("/models", 404): 1,
        ("/predict/{model}", "rejected_record"): 1,
        ("/models", "unknown_model"): 1,
    }


def test_a_path_counts_as_its_template():
    http, same = HttpCounters(), HttpCounters()
    for path in ("/predict/flights", "/models/a.b", "/models/%20", "/health/live", "/models"):
        http.count(path, 405, "method_not_allowed")
    same.count("/predict/{model}", 405, "method_not_allowed")
    same.count("/models/{model}", 405, "method_not_allowed")
    same.count("/models/{model}", 405, "method_not_allowed")
    same.count("/health/live", 405, "method_not_allowed")
    same.count("/models", 405, "method_not_allowed")
    assert http.read().tolist() == same.read().tolist()


def test_strangers_cannot_make_series():
    http = HttpCounters(PATHS)
    for path in ("/admin.php", "/predict/a/b", "", "/models/", "/openapi_json"):
        http.count(path, 404, "unknown_model")
    http.count("/models", 418)
    http.count("/teapot", 418)
    counts = dict(zip((*http.requests, *http.errors), http.read().tolist(), strict=True))
    assert {series: n for series, n in counts.items() if n} == {
        ("other", 404): 5,
        ("other", "unknown_model"): 5,
        ("/models", "other"): 1,
        ("other", "other"): 1,
    }


def test_every_error_code_has_its_series():
    http = HttpCounters(PATHS)
    for code in ERROR_CODES:
        http.count("/models", 500, code)
    assert sum(http.read()) == 2 * len(ERROR_CODES)


def test_workers_count_http_in_parts_of_one_file_and_successors_go_on():
    n_bytes = HttpCounters(PATHS).n_bytes
    memory = mmap.mmap(-1, 2 * n_bytes)
    for slot in (0, 1, 1):
        http = HttpCounters(PATHS, memory, offset=slot * n_bytes)
        http.count("/models", 200)
        http.close()
    workers = [HttpCounters(PATHS, memory, offset=slot * n_bytes) for slot in (0, 1)]
    at = workers[0].requests.index(("/models", 200))
    assert [int(each.read()[at]) for each in workers] == [1, 2]
    assert read_http(workers)[at] == 3
    with pytest.raises(ValueError, match=f"have 8 bytes from {n_bytes + 8} on, expected {n_bytes}"):
        HttpCounters(PATHS, bytearray(n_bytes + 16), offset=n_bytes + 8)


def test_counters_stay_exact_beyond_what_a_float_holds():
    layout = small_layout()
    region = Region.anonymous(layout)
    region.counts[0] = 2**53 + 1
    page = Exposition([HttpCounters(PATHS)]).page([Exposed(ModelSeries(layout, FACTS), [region])])
    assert read_totals(region).counts.max() == 2**53 + 1
    values = [line.rsplit(" ", 1)[1] for line in own_lines(page) if "predictions" in line]
    assert values == ["9007199254740993"] * len(OUTCOMES)
