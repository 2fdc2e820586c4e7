"""The truth test of the instrument: the data have what is planted, models keep the contract, the counts are right."""

import importlib
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dissect.data.sessions import prefix_index, require_sound
from models.batch import Batch
from models.check import check

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SEED = 101


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in ("planted_sets", "planted_models", "truth")}
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def truth(modules):
    return modules["truth"]


@pytest.fixture(scope="module")
def sets(modules):
    return modules["planted_sets"]


def judged_prefixes(planted):
    """(clicks, target) of each test prefix that is judged."""
    session, length = prefix_index(planted.data.test)
    for s, n in zip(session[planted.judged], length[planted.judged]):
        clicks = planted.data.test[s].tolist()
        yield tuple(clicks[:n]), clicks[n]


# --- the data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["walk", "bag", "pointer", "average", "order", "successor", "half", "nothing"])
def test_a_set_is_sound_and_its_seed_decides(sets, kind):
    make = getattr(sets, kind)
    planted = make(SEED)
    for part in (planted.data.train, planted.data.test):
        require_sound(part, planted.data.n_items)
    assert planted.judged.shape == (planted.data.test.n_prefixes,) and planted.judged.mean() > 0.1
    assert planted.data.split_hash == make(SEED).data.split_hash != make(SEED + 1).data.split_hash
    assert 45_000 < planted.data.train.n_prefixes < 65_000  # so that all cases make about as many steps


def test_a_bag_of_the_pointer_set_has_three_targets_that_are_alike(sets):
    planted = sets.pointer(SEED)
    train = [planted.data.train[s].tolist() for s in range(len(planted.data.train))]
    answers_of: dict[tuple[int, int], Counter[int]] = {}
    for *content, pointer, answer in train:
        for item in content:
            answers_of.setdefault((item, pointer), Counter())[answer] += 1
    # A content item of the class that the pointer names has one answer; any other has all other values' answers.
    named = {pair: answers for pair, answers in answers_of.items() if len(answers) == 1}
    value = {item: next(iter(answers)) for (item, _), answers in named.items()}
    pointer_of = dict(list(named))
    assert len(value) == sets.CLASSES * sets.VALUES and len(set(value.values())) == sets.VALUES
    places = np.zeros(sets.POINTED)
    # Each class has each value once: the class tells nothing about the value.
    assert len({(pointer_of[i], value[i]) for i in value}) == sets.CLASSES * sets.VALUES
    for *content, pointer, answer in train:
        assert len({value[i] for i in content}) == len({pointer_of[i] for i in content}) == sets.POINTED
        (chosen,) = (place for place, i in enumerate(content) if pointer_of[i] == pointer)
        assert value[content[chosen]] == answer
        places[chosen] += 1
    assert np.abs(places / places.sum() - 1 / 3).max() < 0.02


def test_scores_of_the_average_set_are_linear_in_the_mean(sets):
    """The log odds of two values are SHARPNESS times the difference of their shares, whatever order and length are."""
    planted = sets.average(SEED)
    train = [planted.data.train[s].tolist() for s in range(len(planted.data.train))]
    end = Counter(clicks[-2] for clicks in train).most_common(1)[0][0]
    ended = [(clicks[:-2], clicks[-1]) for clicks in train if clicks[-2] == end]
    answers = sorted({answer for _, answer in ended})
    # The answer of an item: the one that follows it in sessions with that item alone, which is nearly certain.
    alone = {}
    for clicks, answer in ended:
        if len(set(clicks)) == 1:
            alone.setdefault(clicks[0], Counter())[answer] += 1
    value = {item: counts.most_common(1)[0][0] for item, counts in alone.items()}
    assert len(answers) == 8 and sorted(Counter(value.values()).values()) == [4] * 8
    shares = np.array([[np.mean([value[i] == v for i in clicks]) for v in answers] for clicks, _ in ended])
    weights = np.exp(sets.SHARPNESS * shares)
    expected = weights / weights.sum(1, keepdims=True)
    came = np.array([[v == answer for v in answers] for _, answer in ended])
    for share in (0, 1 / 4, 1 / 3, 1 / 2, 2 / 3):
        chosen = np.isclose(shares, share)
        p = expected[chosen]
        assert abs(came[chosen].sum() - p.sum()) < 3.5 * np.sqrt((p * (1 - p)).sum()), share


def test_the_multiset_of_an_order_session_does_not_tell_its_target(sets):
    planted = sets.order(SEED)
    targets: dict[tuple[int, ...], Counter[int]] = {}
    pairs = list(judged_prefixes(planted))
    items = Counter(i for clicks, _ in pairs for i in set(clicks))
    end = items.most_common(1)[0][0]
    assert all(clicks[-1] == end for clicks, _ in pairs)
    answers = {answer for _, answer in pairs}
    by_answer = {a: set.intersection(*(set(c) for c, target in pairs if target == a)) - {end} for a in answers}
    assert len(by_answer) == 10 and all(len(markers) == 1 for markers in by_answer.values())
    answer_of = {next(iter(markers)): answer for answer, markers in by_answer.items()}
    for clicks, target in pairs:
        markers = [i for i in clicks if i in answer_of]
        assert len(markers) == 2 and answer_of[markers[0]] == target
        targets.setdefault(tuple(sorted(markers)), Counter())[target] += 1
    assert len(targets) == 45 and all(len(counts) == 2 for counts in targets.values())


def test_the_target_of_a_successor_session_is_told_by_the_last_click_only(sets):
    planted = sets.successor(SEED)
    after = {}
    earlier: dict[int, Counter[int]] = {}
    for clicks, target in judged_prefixes(planted):
        assert after.setdefault(clicks[-1], target) == target
        for i in clicks[:-1]:
            earlier.setdefault(i, Counter())[target] += 1
    assert len(after) == len(set(after.values())) == 40
    assert min(len(counts) for counts in earlier.values()) > 20  # any key leads to any answer


def test_in_the_half_set_the_last_click_halves_the_candidates(sets):
    planted = sets.half(SEED)
    after_both: dict[tuple[int, int], set[int]] = {}
    after_first: dict[int, set[int]] = {}
    for clicks, target in judged_prefixes(planted):
        after_both.setdefault((clicks[0], clicks[-1]), set()).add(target)
        after_first.setdefault(clicks[0], set()).add(target)
    assert max(len(targets) for targets in after_first.values()) == 8
    assert max(len(targets) for targets in after_both.values()) == 4


def test_seeds_for_choosing_for_reporting_and_for_review_are_disjoint(truth):
    assert len(truth.SETS) == 3 and all(len(seeds) >= 10 for seeds in truth.SETS.values())
    for some, others in itertools.combinations(truth.SETS.values(), 2):
        assert not set(some) & set(others)


# --- the models --------------------------------------------------------------------------------------------


def test_each_case_has_a_model_that_keeps_the_contract_with_and_without_its_parts(truth, modules):
    for case in truth.CASES.values():
        if case.model == "srgnn":
            continue
        cls = getattr(modules["planted_models"], case.model)
        for without in [(), *(role.split("+") for role in case.truth)]:
            torch.manual_seed(1)
            model = cls(n_items=5, dim=8, without=without)
            check(model, 5)
            roles = {model.matrices[name].role for name in model.matrices if name.split(".")[0] in there(model)}
            assert roles.isdisjoint(without), case.model
        assert {role for names in case.truth for role in names.split("+")} <= set(cls.removable)


def there(model):
    return {name for name, child in model.named_children() if child is not None}


def test_a_model_with_its_part_at_zero_is_the_model_without_it(modules):
    """So a part that has withered costs nothing, and density and retraining ask the same question."""
    parts = {
        "Attentive": {"attention": ("query", "key")},
        "Recurrent": {"encoder": ("gru",)},
        "Branches": {"encoder": ("of_last",), "update": ("of_hash",), "transformation": ("of_before",)},
    }
    batch = Batch.of([[1, 2, 3], [4], [2, 2], [5, 1, 3, 4]])
    for name, roles in parts.items():
        cls = getattr(modules["planted_models"], name)
        for role, layers in roles.items():
            torch.manual_seed(1)
            full, reduced = cls(n_items=5, dim=8), cls(n_items=5, dim=8, without=(role,))
            with torch.no_grad():
                for layer in layers:
                    for parameter in getattr(full, layer).parameters():
                        parameter.zero_()
            reduced.load_state_dict({k: v for k, v in full.state_dict().items() if k in reduced.state_dict()})
            same = [model.encode(model.item_states(), batch) for model in (full, reduced)]
            torch.testing.assert_close(*same)


def test_attention_is_to_the_clicks_before_the_last(modules):
    torch.manual_seed(1)
    model = modules["planted_models"].Attentive(n_items=5, dim=8)
    S = model.item_states()
    lone, pair, more = model.encode(S, Batch.of([[3], [2, 3], [1, 2, 3]]))
    torch.testing.assert_close(lone, model.transform(torch.cat([torch.zeros(8), S[2]])))
    torch.testing.assert_close(pair, model.transform(torch.cat([S[1], S[2]])))  # one click has the whole weight
    weights = torch.softmax(model.key(S[:2]) @ model.query(S[2]), 0)
    torch.testing.assert_close(more, model.transform(torch.cat([weights @ S[:2], S[2]])))


def test_the_hash_of_the_clicks_before_ignores_order_and_the_last_click(modules):
    torch.manual_seed(1)
    model = modules["planted_models"].Branches(n_items=9, dim=8, without=("encoder", "transformation"))
    a, b, other, lone = model.encode(model.item_states(), Batch.of([[1, 2, 3], [2, 1, 5], [1, 4, 3], [7]]))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, other) and torch.equal(lone, model.bias)


# --- the counts --------------------------------------------------------------------------------------------


def row(truth, density, need, low=0.1, high=0.2, case="a", role="encoder"):
    numbers = dict.fromkeys(("kept", "shadow", "excess", "loss loss", "mrr full", "mrr dense", "mrr without"), 0.1)
    return {"case": case, "role": role, "truth": truth, "density": density, "need": need, "low": low, "high": high} | {
        **numbers,
        "seconds": 1.0,
    }


RESULTS = pd.DataFrame(
    [
        row("needed", "alive", "needed"),
        row("needed", "withered", "needed"),
        row("needed", "undecided", "redundant"),
        row("useless", "withered", "redundant", case="b"),
        row("useless", "alive", "undecided", case="b"),
        row("redundant", "alive", "redundant", case="c"),
        row("redundant", "withered", "needed", case="c"),
        row("rank 1", "alive", "needed", case="d"),
        row("rank 1", "withered", "needed", low=-0.02, high=0.0, case="d"),
        row("rank 1", "withered", "needed", low=0.01, high=0.02, case="d"),
        row("rank 1", "undecided", "needed", low=0.01, case="d"),  # useless parts keep a little more than chance, too
    ]
)


def test_answers_are_counted_as_right_wrong_and_undecided(truth):
    table = truth.outcomes(RESULTS)
    counts = {(names[0], q): tuple(line[q, r] for r in truth.RIGHTS) for names, line in table.iterrows() for q in Q}
    assert counts == {
        ("a", "density"): (1, 1, 1),
        ("a", "need"): (2, 1, 0),
        ("b", "density"): (1, 1, 0),
        ("b", "need"): (1, 0, 1),
        ("c", "density"): (0, 0, 0),
        ("c", "need"): (1, 1, 0),
        ("d", "density"): (1, 1, 2),
        ("d", "need"): (4, 0, 0),
        ("in all", "density"): (3, 3, 3),
        ("in all", "need"): (8, 2, 1),
    }


Q = ("density", "need")


def test_the_summary_says_what_was_counted(truth):
    matrices = pd.DataFrame(
        {"truth": ["needed"] * 2 + ["useless"] * 2 + ["rank 1"], "excess": [0.5, 0.2, 0.1, 0.3, 0.0], "kept": range(5)}
    )
    assert truth.auc(matrices, "excess") == 0.75 and truth.auc(matrices, "kept") == 0.0
    text = truth.summary(RESULTS, matrices, "Truth test")
    assert "| b | encoder | useless | 1 / 1 / 0 | 1 / 0 / 1 |" in text
    assert "By density: 3 wrong of 9, 67% decided." in text and "By need: 2 wrong of 11, 91% decided." in text
    assert "of 4 roles said to be alive, 1 useless" in text
    assert "2 needed against 2 useless matrices" in text and "0.750 by excess density, 0.000 by kept share" in text


@pytest.mark.parametrize(
    ("answers", "together"),
    [
        (["alive", "withered"], "alive"),
        (["withered", "withered"], "withered"),
        (["undecided", "withered"], "undecided"),
    ],
)
def test_two_roles_together_have_withered_if_both_have(truth, answers, together):
    assert truth.joined(answers) == together
