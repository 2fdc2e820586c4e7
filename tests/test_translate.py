"""Two data sets of one shop meet by what the shop calls its items, whatever the numbers are."""

import json

import numpy as np
import pytest
import torch

from dissect.data import catalog, planted
from dissect.data.sessions import Dataset, Sessions, prefix_index
from dissect.data.translate import Numbering, number_by_name, numbering_of, translated, translation
from dissect.errors import DataError
from dissect.runs import files, folders
from dissect.training.checkpoint import load_checkpoint
from dissect.training.evaluation import MISS, metrics, rank_sessions
from dissect.training.start import item_axes, weights_of
from models import SRGNN

CPU = torch.device("cpu")
SKUS = [f"sku-{n:03d}" for n in range(60)]


def month(name, names, visits):
    """A data set whose items are numbered in the order of `names`; the last third of the visits tests."""
    number = {sku: item for item, sku in enumerate(names, 1)}
    lists = [[number[sku] for sku in visit] for visit in visits]
    cut = len(lists) * 2 // 3
    parts = Sessions.from_lists(lists[:cut]), Sessions.from_lists(lists[cut:])
    return Dataset(name, len(names), *parts, {"format": "gru4rec"}, list(names))


def walks(seed, names, n=240):
    """Visits along the cycle of the names: the next item is known from the last."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(len(names), size=n), rng.integers(3, 7, size=n)
    return [[names[(s + k) % len(names)] for k in range(L)] for s, L in zip(starts, lengths)]


MAY, JUNE = walks(1, SKUS), walks(2, SKUS)
SHUFFLED = np.random.default_rng(3).permutation(SKUS).tolist()
GROWN = [[*visit[:2], "new", *visit[2:]] for visit in JUNE]


@pytest.fixture
def shop(typed, tmp_path):
    """A model of May, and June three times: in May's numbers, in another order, and with an item that May lacks."""
    for data in (
        month("may", SKUS, MAY),
        month("june", SKUS, JUNE),
        month("june-shuffled", SHUFFLED, JUNE),
        month("june-grown", ["new", *SHUFFLED], GROWN),
    ):
        catalog.save(data, tmp_path / "data")
    words = ["--dataset", "may", "--dim", "16", "--device", "cpu", "--quiet"]
    assert typed("train", "srgnn", *words, "--epochs", "8", "--lr", "0.03")[0] == 0
    return typed


def evaluated(typed, run, dataset):
    code, out, err = typed("evaluate", str(run), "--dataset", dataset, "--device", "cpu", "--json")
    assert code == 0, err
    return json.loads(out), err


def test_another_order_of_the_same_items_changes_no_accuracy(shop):
    run = folders.newest_group("runs") / "s1"
    for kind in ("srgnn", "pop"):
        if kind == "pop":
            assert shop("train", "pop", "--dataset", "may", "--quiet")[0] == 0
            run = folders.newest_group("runs") / "s1"
        right, says = evaluated(shop, run, "june")
        found, err = evaluated(shop, run, "june-shuffled")
        assert says == "" and "60 are in both, 0 in 'june-shuffled' only, 0 in the run's only" in err
        assert {m: found[m] for m in right if "@" in m} == {m: right[m] for m in right if "@" in m}
        assert found["unknown_targets"] == found["without_known_click"] == 0
        _, out, _ = shop("evaluate", str(run), "--dataset", "june-shuffled", "--quiet")
        assert "misses" not in out and "known targets" not in out
        assert kind == "pop" or right["hr@20"] > 75  # so that wrong numbers would show


@pytest.mark.parametrize("format", ["gru4rec", "srgnn"])
def test_months_that_were_exported_and_imported_meet_by_their_identifiers(typed, tmp_path, format):
    for data in (month("may", SKUS, MAY), month("june", SHUFFLED, JUNE)):
        catalog.save(data, tmp_path / "data")
        assert typed("data", "export", data.name, "--format", format, "--out", data.name)[0] == 0
        files = {"gru4rec": ("train.tsv", "test.tsv"), "srgnn": ("all_train_seq.txt", "test.txt")}[format]
        paths = [f"{data.name}/{file}" for file in files]
        assert typed("data", "import", f"{data.name}-copy", "--format", format, *paths)[0] == 0
    found = []
    for dataset in ("may", "may-copy"):
        words = ["--dataset", dataset, "--dim", "16", "--device", "cpu", "--quiet", "--epochs", "2", "--lr", "0.03"]
        assert typed("train", "srgnn", *words)[0] == 0
        run = folders.newest_group("runs") / "s1"
        found.append(evaluated(typed, run, dataset.replace("may", "june"))[0])
    assert found[0]["hr@20"] == found[1]["hr@20"] > 50  # so that wrong numbers would show
    assert found[1]["unknown_targets"] == 0


def test_an_accuracy_over_no_known_target_is_none(shop, tmp_path):
    catalog.save(month("strange", ["new", *SKUS], [[*visit[:1], "new"] for visit in JUNE]), tmp_path / "data")
    run = folders.newest_group("runs") / "s1"
    found, _ = evaluated(shop, run, "strange")
    assert found["n"] == found["unknown_targets"] and set(found["known_targets"].values()) == {None}
    out = shop("evaluate", str(run), "--dataset", "strange", "--quiet")[1]
    dashes = [line for line in out.splitlines() if line.split()[-1:] == ["-"]]
    assert len(dashes) == len(found["known_targets"])


def test_items_that_the_model_does_not_know_are_counted_as_misses(shop, tmp_path):
    run = folders.newest_group("runs") / "s1"
    found, err = evaluated(shop, run, "june-grown")
    assert "60 are in both, 1 in 'june-grown' only, 0 in the run's only" in err
    test = GROWN[160:]
    assert found["n"] == sum(len(visit) - 1 for visit in test)
    assert found["unknown_targets"] == len(test)  # "new" is the third click of each visit
    # Without "new" they are June's prefixes: each is ranked as there.
    right, _ = evaluated(shop, run, "june")
    assert found["known_targets"]["hr@20"] == pytest.approx(right["hr@20"], abs=1e-9)
    assert found["hr@20"] == pytest.approx(right["hr@20"] * (found["n"] - len(test)) / found["n"], abs=1e-9)
    code, out, _ = shop("evaluate", str(run), "--dataset", "june-grown", "--ranks", "ranks.npz", "--quiet")
    assert code == 0 and f"{len(test)} prefixes whose target the model does not know" in out and "known targets" in out
    ranks = folders.read_ranks(tmp_path / "ranks.npz")
    assert (ranks["rank"] == MISS).sum() == len(test) and metrics(ranks["rank"])["hr@20"] == found["hr@20"]


def test_a_prefix_is_ranked_where_its_target_and_a_click_are_known():
    numbers = np.array([0, 3, 0, 1], np.int32)  # item 2 is unknown
    sessions = Sessions.from_lists([[1, 2, 3], [2, 2], [2, 3, 1], [2, 1]])
    kept, ranked, known = translated(sessions, numbers)
    assert [kept[s].tolist() for s in range(len(kept))] == [[3, 1], [1, 3], [3]]
    assert known.tolist() == [False, True, False, True, True, True]
    assert ranked.tolist() == [False, True, False, False, True, False]
    assert ranked.sum() == len(prefix_index(kept)[0])


def numbering(name="a", identifiers=None, split_hash="0", **provenance):
    n_items = 3 if identifiers is None else len(identifiers)
    return Numbering(name, n_items, split_hash, provenance, identifiers)


def test_items_meet_by_the_text_that_they_are_called():
    old, new = numbering(identifiers=[7, 123, "x", ""]), numbering("b", ["0123", "123", "7", "", "y"], "1")
    assert translation(new, old).tolist() == [0, 0, 2, 1, 0, 0]
    assert translation(old, new).tolist() == [0, 3, 2, 0, 0]


def test_numbers_of_a_script_are_no_names():
    files = {"train": {"file": "train.txt", "sha256": "ab"}}
    other = {"train": {"file": "train.txt", "sha256": "cd"}}
    for format in ("srgnn", "lessr"):
        a, b = numbering("a", format=format, **files), numbering("b", [0, 1, 2], "1", format=format, **other)
        for pair in ((a, b), (b, a)):
            with pytest.raises(DataError, match="numbers only"):
                translation(*pair)
        recent = numbering("b", [3, 1], "1", format=format, **files)  # the same file, its last sessions
        assert translation(recent, a).tolist() == [0, 3, 1]
        assert translation(a, numbering("c", None, "0", format=format, **other)).tolist() == [0, 1, 2, 3]  # one split
    named = numbering("b", ["1", "2", "z"], "1", format="gru4rec")
    kept = numbering("a", None, "0", format="gru4rec", items="as in the files")
    assert translation(named, kept).tolist() == [0, 1, 2, 0]
    with pytest.raises(DataError, match="the run's 'a' has numbers only"):
        translation(named, numbering())


def test_data_sets_without_a_common_item_are_refused():
    with pytest.raises(DataError, match="no item in common"):
        translation(numbering("a", ["x"]), numbering("b", ["y"], "1"))
    with pytest.raises(DataError, match=r"items 1 and 3 are both called '5'"):
        number_by_name([5, "", "5"], "'a'")


def test_identifiers_that_an_earlier_version_read_as_numbers_are_named():
    old = numbering("may", [12, 7, 103], format="log")
    new = numbering("june", ["0012", "0007", "0103"], "1", format="log")
    for pair in ((old, new), (new, old)):
        with pytest.raises(DataError, match="no item in common") as error:
            translation(*pair)
        assert "'may', read identifiers as numbers" in error.value.hint and "train again" in error.value.hint
    recent = numbering("may", [12, 7, 103], format="gru4rec", items="as in the files")  # of --recent: all is well
    with pytest.raises(DataError) as error:
        translation(new, recent)
    assert error.value.hint == "Are they of the same shop?"


def test_built_in_sets_of_one_catalogue_number_their_items_alike():
    bag, walk, demo = (numbering_of(planted.generate(name)) for name in ("demo-bag", "demo-walk", "demo"))
    assert translation(bag, walk).tolist() == list(range(601))
    with pytest.raises(DataError, match="numbers only"):
        translation(demo, walk)


def test_a_training_starts_from_the_rows_of_the_same_items(shop):
    run = folders.newest_group("runs") / "s1"
    source = load_checkpoint(run / "checkpoints" / "best.pt")["model"]
    start = weights_of(run, month("june-grown", ["new", *SHUFFLED], GROWN), lambda n: SRGNN(n, dim=16))
    for item, sku in enumerate(SHUFFLED, 2):
        assert torch.equal(start.weights["items"][item - 1], source["items"][SKUS.index(sku)])
    assert start.weights["items"][0].isnan().all() and torch.equal(
        start.weights["readout.transform.weight"], source["readout.transform.weight"]
    )
    # One step of a rate of nearly nothing: as good on June as the model of May, by the beginning of its name.
    words = ["--init-from", run.parent.name[:-3], "--dim", "16", "--max-steps", "1", "--lr", "1e-9", "--device", "cpu"]
    right, _ = evaluated(shop, run, "june")
    for dataset, says in (("june-shuffled", "60 are in both, 0 in"), ("june-grown", "60 are in both, 1 in")):
        code, _, err = shop("train", "srgnn", "--dataset", dataset, *words, "--quiet")
        assert code == 0 and says in err, err
        summary = files.read_json(folders.newest_group("runs") / "s1" / "summary.json")
        assert dataset != "june-shuffled" or summary["test"]["hr@20"] == pytest.approx(right["hr@20"], abs=0.5)
        assert np.isfinite(summary["test"]["hr@20"])


def test_a_table_with_another_number_of_rows_than_items_is_not_renumbered(shop, tmp_path):
    (tmp_path / "padded.py").write_text(
        "import torch\nfrom torch import nn\nfrom models.base import SessionModel, Matrix, lookup\n\n\n"
        "class Padded(SessionModel):\n"
        "    matrices = {'last': Matrix('transformation', 'readout')}\n\n"
        "    def __init__(self, n_items, dim=8):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(n_items + 1, dim)\n"
        "        self.last = nn.Linear(dim, dim)\n\n"
        "    def item_states(self):\n        return self.table.weight[1:]\n\n"
        "    def encode(self, S, batch):\n        return self.last(lookup(S, batch.items[:, 0]))\n"
    )
    words = ["padded.py:Padded", "--device", "cpu", "--max-steps", "2", "--quiet"]
    assert shop("train", *words, "--dataset", "may")[0] == 0
    group = folders.newest_group("runs").name
    code, _, err = shop("train", *words, "--dataset", "june-shuffled", "--init-from", group)
    assert code == 3 and "table.weight" in err and "61 rows for 60 items" in err
    assert shop("train", *words, "--dataset", "june", "--init-from", group)[0] == 0  # numbered alike


def test_axes_that_count_items_are_those_that_grow():
    assert item_axes(lambda n: SRGNN(n, dim=5)) == {"items": [0]}


def test_the_last_clicks_count_in_another_data_set_too():
    """With numbers that change nothing, a model that looks at the last two clicks ranks as without numbers."""
    data = month("may", SKUS, MAY)
    torch.manual_seed(0)
    model, same = SRGNN(n_items=60, dim=8), np.arange(61)
    whole, capped = (rank_sessions(model, data.test, CPU, longest=longest).rank for longest in (0, 2))
    assert not np.array_equal(whole, capped)
    assert np.array_equal(rank_sessions(model, data.test, CPU, "best", same, 2).rank, capped)
