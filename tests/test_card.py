"""The model card: what the people need who take a model over, or must approve it."""

from pathlib import Path

import pytest

from models.manifest import MANIFEST, Manifest, read
from models.policies import repair
from tests.packed import DRIVERS, full_bundle, packed, trips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_bundle(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sections(folder: Path) -> dict[str, str]:
    return by_title((folder / "card.md").read_text("utf-8"))


def by_title(card: str) -> dict[str, str]:
    """The text of each section; that above the first is under no title."""
    head, *parts = card.split("\n## ")
    return {"": head} | {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_it_has_a_section_for_each_question(sections: dict[str, str]):
    assert list(sections) == [
        "",
        "What it is for",
        "What it is not for",
        "What it answers",
        "What it takes",
        "Who answers when the model does not",
        "What it was made from",
        "How good it is",
        "How good it is by slice",
        "What its answers depend on",
        "How it was checked",
        "When something is wrong",
        "What it needs",
    ]
    assert "# trips 1" in sections[""]
    assert "Owner: Ada, contact: ada@example.org." in sections[""]


def test_it_says_what_the_owner_intends(sections: dict[str, str]):
    assert sections["What it is for"].strip() == "To tell passengers that a trip may be late."
    assert sections["What it is not for"].strip() == "Not for trips beyond 100 km."


def test_it_says_what_was_promised(sections: dict[str, str]):
    text = sections["What it answers"]
    assert "99% of answers within 25 ms" in text
    assert "99.9% of requests answered" in text
    assert "at most 1% of answers not the model's" in text


def test_it_names_policies_and_sensitive_fields(sections: dict[str, str]):
    text = sections["What it takes"]
    assert "missing: accept, invalid: baseline, unknown: rules |" in text
    assert "| missing: baseline, invalid: baseline |" in text
    assert "sensitive, so in no answer, metric, page or log: `driver` (hash)" in text


def test_it_tells_the_ladder_in_words_and_as_it_is_written(sections: dict[str, str]):
    text = sections["Who answers when the model does not"]
    far = next(line for line in text.splitlines() if "`far_from_home`" in line)
    assert "fails, in which case it is rejected" in far
    assert "0.00% of the training rows fail it" in far
    late = next(line for line in text.splitlines() if "`workday_or_near`" in line)
    assert "it goes to the baseline" in late
    table = trips()
    share = (table["is_weekend"] & (table["distance"] >= 70)).mean()
    assert f"{share:.2%} of the training rows fail it" in late
    assert "baseline, lightgbm LGBMClassifier: it reads `distance`, `carrier`" in text
    assert "also with `distance` missing, `carrier` missing or unknown" in text
    rule = next(line for line in text.splitlines() if "`long_weekend`" in line)
    assert "probability 0.75, decision **late**" in rule
    assert "where `r.is_weekend && r.distance > 60.0`" in rule
    assert "the default: probability 0.25, decision **in_time**" in text


def test_it_compares_model_and_baseline(folder: Path, sections: dict[str, str]):
    manifest = read(Manifest, (folder / MANIFEST).read_bytes(), what="manifest")
    assert manifest.baseline is not None
    model, baseline = manifest.training.metrics["auc"], manifest.baseline.metrics["auc"]
    assert model > baseline
    assert f"| auc | {model:.4g} | {baseline:.4g} |" in sections["How good it is"]
    assert "On the 150 held-out rows" in sections["How good it is"]


def test_quality_by_slice_is_that_of_the_manifest(folder: Path, sections: dict[str, str]):
    manifest = read(Manifest, (folder / MANIFEST).read_bytes(), what="manifest")
    measured = manifest.training.slices["carrier"]["UA"]
    text = sections["How good it is by slice"]
    line = next(line for line in text.splitlines() if line.startswith("| carrier: UA |"))
    assert line.split(" | ")[1:] == [
        f"{measured['n']:.0f}",
        f"{measured['log_loss']:.4g}",
        f"{measured['brier']:.4g}",
        f"{measured['auc']:.4g} |",
    ]
    assert "| driver: 0 |" in text, "values of a sensitive field are codes"


def test_it_says_what_to_do_at_night(sections: dict[str, str]):
    text = sections["When something is wrong"]
    for words in (
        "`keelmark verify trips/1`",
        "`keelmark force-fallback trips rules --reason TEXT` (`off` ends it)",
        "`keelmark force-fallback trips baseline --reason TEXT`",
        "`keelmark publish trips/VERSION --live`",
        "tell Ada ada@example.org",
    ):
        assert words in text


def test_no_sensitive_value_is_in_it(folder: Path):
    card = (folder / "card.md").read_text("utf-8")
    assert not any(driver in card for driver in DRIVERS)


def test_what_nobody_said_is_called_so(tmp_path: Path):
    """Few rows in a slice, and no owner, use, limits, objectives, target or slices."""
    bare = by_title((packed(tmp_path, target=None) / "card.md").read_text("utf-8"))
    assert "Owner: not named." in bare[""]
    assert bare["What it is for"].strip() == "Not stated."
    assert bare["What it is not for"].strip() == "Not stated."
    assert "promised: nothing is stated" in bare["What it answers"]
    assert "nothing was measured" in bare["How good it is"]
    assert "No slices are stated." in bare["How good it is by slice"]
    assert "the owner, who is not named" in bare["When something is wrong"]
    assert "baseline" not in bare["When something is wrong"]


def test_few_rows_are_called_few(tmp_path: Path):
    held = trips(60, seed=3)
    folder = packed(tmp_path, holdout=held, slices=("carrier",))
    text = by_title((folder / "card.md").read_text("utf-8"))["How good it is by slice"]
    rare = held["carrier"].count("AA")
    assert 0 < rare < 20
    assert "| carrier: AA | few |" in text
    assert "few are less than 20" in text


def test_what_repairs_a_sensitive_field_is_not_in_it(tmp_path: Path):
    policies = {"driver": {"missing": repair(DRIVERS[0])}, "distance": {"missing": repair(12.5)}}
    text = (packed(tmp_path, policies=policies) / "card.md").read_text("utf-8")
    assert "missing: repair with a value of its own, invalid: repair" in text
    assert "missing: repair with 12.5" in text
    assert not any(driver in text for driver in DRIVERS)
