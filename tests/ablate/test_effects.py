"""What a change did, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from converter.ablate.measure import Effect, find_decision, find_threshold
from converter.ablate.scoring import Score, correct_p_values, rank_scores
from converter.errors import DataError
from converter.records import Fate, FateKind
from converter.records.ablate import BiasClass, Role
from tests.ablate.made import chain, net_of


def effect(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> Effect:
    made = Effect(decides=True)
    for k in range(0, len(before), 3):
        made.add(before[k : k + 3], after[k : k + 3], None if labels is None else labels[k : k + 3])
    return made


def softmax(v: np.ndarray) -> np.ndarray:
    e = np.exp(v - v.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_every_number_by_hand() -> None:
    rng = np.random.default_rng(0)
    z, w = rng.standard_normal((20, 4)), rng.standard_normal((20, 4))
    labels = rng.integers(0, 4, 20)
    found = effect(z, w, labels)
    p, q = softmax(z), softmax(w)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())
    assert found.relative_error == pytest.approx(np.linalg.norm(w - z) / np.linalg.norm(z - z.mean(axis=0)))
    assert found.agreement == pytest.approx((z.argmax(1) == w.argmax(1)).mean())
    a, b = z.argmax(1) == labels, w.argmax(1) == labels
    assert found.counts == ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())
    assert found.summarize().difference == pytest.approx((b.sum() - a.sum()) / 20)


def test_probabilities_are_taken_as_they_are() -> None:
    rng = np.random.default_rng(1)
    z, w = rng.standard_normal((9, 4)), rng.standard_normal((9, 4))
    assert effect(softmax(z), softmax(w)).kl == pytest.approx(effect(z, w).kl)


def test_nothing_changed_is_nothing() -> None:
    z = np.random.default_rng(2).standard_normal((9, 4)).astype(np.float32)
    found = effect(z, z)
    assert (found.relative_error, found.agreement, found.kl) == (0.0, 1.0, 0.0)
    assert found.summarize().difference is None


@pytest.mark.parametrize("shape", [(20,), (20, 1), (20, 1, 2, 3), (20, 4, 1)], ids=str)
def test_a_single_score_decides_by_its_sign_where_labels_say_so(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    z, w = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    labels = rng.integers(0, 2, (20, z.size // 20))
    p, q = (1 / (1 + np.exp(-v)) for v in (z, w))
    for before, after, threshold in ((z, w, 0.0), (p, q, 0.5)):
        assert find_threshold(before, labels) == threshold
        found = Effect(True, threshold)
        found.add(before, after, labels)
        said = found.summarize()
        right = [((v.reshape(20, -1) > threshold) == labels).mean() for v in (before, after)]
        assert [said.accuracy_before, said.accuracy_after] == pytest.approx(right)
        assert said.agreement == pytest.approx(((before > threshold) == (after > threshold)).mean())
        assert said.kl == pytest.approx((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(), rel=1e-4)
        assert said.relative_error > 0


def test_one_number_that_no_label_calls_a_score_is_a_number() -> None:
    z, two = np.zeros((4, 1), np.float32), np.zeros((4, 2), np.float32)
    yes = np.array([0, 1, 1, 0])
    assert find_threshold(z + 7, yes) == 0.0
    for output, labels in ((z, None), (z, yes * 2), (z, yes / 2), (z, yes[:3]), (two, yes), (z.astype(np.int64), yes)):
        assert find_threshold(output, labels) is None


def test_which_output_is_looked_at() -> None:
    scores, image, ids = np.zeros((2, 5), np.float32), np.zeros((2, 1, 4, 4), np.float32), np.zeros((2, 3), np.int64)
    assert find_decision({"i": image, "s": scores}, None) == ("s", True)
    assert find_decision({"d": ids, "i": image}, None) == ("i", False)
    assert find_decision({"i": image, "s": scores}, "i") == ("i", False)
    assert find_decision({"m": np.zeros((2, 3, 4, 4), np.float32)}, None) == ("m", True)
    with pytest.raises(DataError, match="its outputs are i, s"):
        find_decision({"i": image, "s": scores}, "t")
    with pytest.raises(DataError, match="no output of floating-point"):
        find_decision({"d": ids}, None)


# -- classes ---------------------------------------------------------------------------------


def score(site_role: Role = Role.INNER, fate: FateKind = FateKind.KEPT, **facts: float) -> Score:
    from dataclasses import replace

    site = net_of(chain())[0].sites[1]
    site = replace(site, role=site_role, fate=Fate(site.label, site.op, fate, 3, where="next"))
    return Score(site, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (score(fate=FateKind.DEAD, predicted=0.5, r=0.5), BiasClass.DEAD),
        (score(fate=FateKind.ZERO, predicted=0.0, r=0.5), BiasClass.DEAD),
        (score(fate=FateKind.ABSORBED, predicted=0.5, r=0.5), BiasClass.REDUNDANT),
        (score(fate=FateKind.MERGED, predicted=0.5, r=0.5), BiasClass.REDUNDANT),
        (score(predicted=0.02, r=1.0), BiasClass.SMALL),
        (score(Role.HEAD, predicted=0.02, r=1.0), BiasClass.SMALL),
        (score(Role.HEAD, predicted=0.021, r=0.0), BiasClass.ESSENTIAL),
        (score(predicted=1.0, r=0.0099), BiasClass.COMPENSABLE),
        (score(predicted=1.0, r=0.0101), BiasClass.ESSENTIAL),
        (score(predicted=1.0, r=0.0001, r_fit=0.02), BiasClass.ESSENTIAL),  # overfitted
        (score(), BiasClass.UNKNOWN),
        (score(predicted=0.5), BiasClass.UNKNOWN),
    ],
)
def test_classes_by_their_limits(made: Score, kind: BiasClass) -> None:
    assert made.verdict[0] is kind


def test_measured_goes_before_predicted() -> None:
    z = np.ones((3, 4))
    assert score(predicted=0.5, r=0.0, effect=effect(z, z * 1.001)).verdict[0] is BiasClass.SMALL


def test_measured_imitation_goes_before_foretold() -> None:
    z = np.ones((3, 4))
    assert score(predicted=1.0, r=1.0, imitated=effect(z, z * 1.09)).verdict[0] is BiasClass.COMPENSABLE
    assert score(predicted=1.0, r=0.0, imitated=effect(z, z * 1.11)).verdict[0] is BiasClass.ESSENTIAL


def test_ranking_and_holm() -> None:
    labels = np.zeros(12, int)
    right, wrong = np.tile([9.0, 1.0], (12, 1)), np.tile([1.0, 9.0], (12, 1))
    strong = score(predicted=3.0, r=1.0, effect=effect(right, wrong, labels))
    weak = score(predicted=0.1, r=1.0, effect=effect(right, right, labels))
    dead = score(fate=FateKind.DEAD)
    made = correct_p_values([weak, dead, strong])
    assert [m.p_holm for m in made] == [1.0, pytest.approx(np.nan, nan_ok=True), pytest.approx(2 * 2 * 0.5**12)]
    assert rank_scores(made)[0].error == strong.error
    assert rank_scores(made)[-1].verdict[0] is BiasClass.DEAD
