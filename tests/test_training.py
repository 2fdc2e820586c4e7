"""The loop as a whole: records, schedules, and runs that stop and go on as if they had not."""

import json
import math
import os
import shutil
import signal
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.errors import DataError, DissectError, DivergedError, UsageError
from dissect.experiment.trials import accuracy
from dissect.runs.config import Config, decay_step, kl_weight_at, lr_at
from dissect.runs.files import locked, read_json, read_jsonl, write_toml
from dissect.runs.folders import MATCHED, is_done, read_ranks
from dissect.runs.replace import set_aside
from dissect.training import loop
from dissect.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from dissect.training.device import prepare_device
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.loop import ExampleOrder, examples_of, fit
from dissect.training.record import Observer
from dissect.training.resume import Interrupted, restore
from dissect.training.setup import assemble
from models import SRGNN

V = 30


def small_data(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    sessions = [rng.integers(1, V + 1, rng.integers(2, 7)).tolist() for _ in range(120)]
    return Dataset("small", V, Sessions.from_lists(sessions[:100]), Sessions.from_lists(sessions[100:]))


DATA = small_data()
CONFIG = Config("srgnn", "small", DATA.split_hash, {"dim": 8}, max_steps=60, batch_size=16)


def train(folder, config=CONFIG, seed=1, **more):
    options = dict(config.model_options.items())
    return fit(lambda: SRGNN(V, **options), DATA, config, folder, seed=seed, **more)


def records(folder):
    """Everything that a run writes, without the seconds that it took."""
    lines = [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(folder / "metrics.jsonl")]
    return lines, read_jsonl(folder / "density.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "s1"
    return folder, train(folder)


def test_a_line_has_the_rate_and_the_kl_weight_of_the_step_before_it(finished):
    lines = [row for row in records(finished[0])[0] if row["kind"] == "train"]
    assert lines[-1]["step"] == 60 and lines[-1]["lr"] == lr_at(CONFIG, 59, 7) > 0
    assert all(row["kl_weight"] == kl_weight_at(CONFIG, row["step"] - 1) for row in lines)


def test_each_step_has_the_settings_of_its_number_and_a_line_the_mean_of_its_steps(tmp_path, monkeypatch):
    """Rates and KL weight as the optimiser and the loss get them; two epochs, the first with a small last batch."""
    steps, real = [], loop.train_step

    def watched(training, batch, beta, *rest):
        rates = {group["kind"]: group["lr"] for group in training.optimiser.param_groups}
        steps.append((rates, beta, len(batch), *real(training, batch, beta, *rest)))
        return steps[-1][3:]

    monkeypatch.setattr(loop, "train_step", watched)
    monkeypatch.setattr(loop, "LOSS_LINES", 4)
    config = replace(CONFIG, max_steps=40, kl_weight=2.0, kl_warmup=0.5, schedule="host", own_rate=3.0, batch_size=15)
    train(tmp_path / "s1", config)
    n, lr = split_validation(DATA.train, config.held_out)[0].n_prefixes, config.lr
    assert n % 15 and n < 40 * 15
    for step, (rates, beta, *_) in enumerate(steps):
        host = lr * min(1, (40 - step) / (0.6 * 40))
        assert rates == pytest.approx({"host": host, "penalised": lr, "own": 3 * lr})
        assert beta == pytest.approx(2.0 * min(1, step / 20) / n)
    lines = [row for row in records(tmp_path / "s1")[0] if row["kind"] == "train"]
    assert [row["step"] for row in lines] == [10, 20, 30, 40]
    for row in lines:
        of = steps[row["step"] - 10 : row["step"]]
        ce, kl = np.mean([step[3] for step in of]), np.mean([step[4] for step in of])
        assert (row["ce"], row["kl"]) == pytest.approx((ce, kl))
        assert row["loss"] == pytest.approx(ce + 2.0 * min(1, (row["step"] - 1) / 20) / n * kl)
        assert row["examples"] == sum(step[2] for step in steps[: row["step"]])


def test_each_epoch_has_an_order_of_its_own_by_the_seed_and_every_example_once():
    prefixes = prefixes_of(DATA.train)

    def epochs(seed, order="shuffled"):
        of = ExampleOrder(prefixes, replace(CONFIG, order=order), seed)
        return [torch.cat([of.batch(k * of.steps + at) for at in range(of.steps)]).tolist() for k in (0, 1)]

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(len(prefixes)))
    assert first != second and epochs(1) == [first, second] and epochs(2)[0] != first
    in_time = epochs(1, "chronological")
    assert in_time[0] == in_time[1] and sorted(in_time[0][:16]) == list(range(16))


def test_of_equally_good_epochs_the_first_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "identity", lambda training: {})
    config = replace(CONFIG, where="none", select="mrr@20", patience=2)
    state = SimpleNamespace(step=0, best_value=-1.0, best_step=0)
    training = SimpleNamespace(config=config, state=state, model=torch.nn.Linear(1, 1))
    stops = []
    for state.step, value in ((7, 5.0), (14, 6.0), (21, 6.0), (28, 5.9)):
        stops.append(loop.choose_epoch(training, {"valid": {"mrr@20": value}}, tmp_path, 7))
    assert stops == [False, False, False, True] and state.best_step == 14
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 14


def test_a_run_leaves_every_record(finished):
    folder, summary = finished
    assert is_done(folder)
    names = {p.name for p in folder.iterdir()}
    assert {
        "environment.json",
        "coverage.json",
        "metrics.jsonl",
        "density.jsonl",
        "summary.json",
        "checkpoints",
        "ranks-test-last.npz",
        "ranks-valid-last.npz",
    } <= names
    assert read_json(folder / "summary.json")["test"] == summary["test"]
    lines, density = records(folder)
    assert all(row["schema"] == 1 for row in lines + density)
    steps = sorted({row["step"] for row in density})
    assert steps[0] == 0 and steps[-1] == 60 and decay_step(CONFIG) in steps
    last = [row for row in lines if row["kind"] == "eval" and row["split"] == "test"][-1]
    assert {k: last[k] for k in summary["test"]} == summary["test"]
    ranks = read_ranks(folder / "ranks-test-last.npz")
    assert metrics(ranks["rank"]) == summary["test"]
    assert ranks["target"][0] == DATA.test[0][1] and len(ranks["rank"]) == DATA.test.n_prefixes


def test_densities_describe_the_final_weights(finished):
    folder, summary = finished
    weights = load_checkpoint(folder / "checkpoints" / "last.pt")["model"]
    for row in summary["density"]:
        if row["block"] or row["role"] == "control":
            continue
        theta, log_sigma2 = weights[f"{row['matrix']}.weight"], weights[f"{row['matrix']}.log_sigma2"]
        assert row["kept"]["3"] == int((log_sigma2 - torch.log(theta**2 + 1e-16) < 3).sum())
        assert row["theta_abs_gt"]["0.01"] == int((theta.abs() > 0.01).sum())


def test_quick_checks_and_controls_are_there(finished):
    _, summary = finished
    assert set(summary["checks"]) == {
        "masked",
        "mean",
        "propagation_zero",
        "gnn_bypassed",
        "attention_uniform",
    }
    assert summary["checks"]["masked"] == {k: summary["test"][k] for k in ("hr@20", "mrr@20")}
    assert {r["matrix"] for r in summary["density"] if r["role"] == "control"} == {
        "control.kl_only",
        "control.rolled",
    }
    assert summary["selection_bias"]["mrr@20"] >= 0


@pytest.mark.parametrize("select", ["last", "mrr@20"])
def test_test_may_be_ranked_at_the_end_only_and_nothing_else_changes(tmp_path, select):
    config = replace(CONFIG, select=select)
    always, once = train(tmp_path / "a", config), train(tmp_path / "b", replace(config, test_at_end=True))
    wanted = {name: value for name, value in always.items() if name not in ("seconds", "selection_bias")}
    assert {name: once[name] for name in wanted} == wanted and "selection_bias" not in once
    evals = {
        name: [(row["split"], row["step"]) for row in records(tmp_path / name)[0] if row["kind"] == "eval"]
        for name in "ab"
    }
    assert evals["b"] == [row for row in evals["a"] if row[0] == "valid" or row[1] == 60] and ("test", 60) in evals["b"]
    with pytest.raises(UsageError, match="protocol=paper chooses the epoch on test, and test_at_end=True"):
        replace(CONFIG, protocol="paper", test_at_end=True)


def test_when_test_is_ranked_makes_no_other_group():
    once = replace(CONFIG, test_at_end=True)
    assert once == CONFIG and once.hash == CONFIG.hash and once.to_dict() != CONFIG.to_dict()


def test_under_the_papers_protocol_ties_against_the_target_are_those_of_the_best_epoch(tmp_path, monkeypatch):
    """A tuning reads them. Scores that are all alike rank every target first, or last."""
    monkeypatch.setattr(SRGNN, "candidates", lambda self, S: (0 * S, None))
    summary = train(tmp_path / "s1", replace(CONFIG, where="none", protocol="paper", select="mrr@20", max_steps=8))
    assert summary["test"]["mrr@20"] == 100 and summary["test_worst_ties_at_best"]["mrr@20"] == 0 == accuracy(summary)
    assert "test_worst_ties" not in summary  # beside maxima, each of its own epoch


def test_a_reduced_model_and_the_matched_one_make_no_checks_that_only_a_verdict_reads(tmp_path):
    assert set(train(tmp_path / "a", variant="without-attention")["checks"]) == {"masked", "mean"}
    assert train(tmp_path / "b", CONFIG.matched(), variant=MATCHED)["checks"] == {}


def test_same_seed_same_numbers_other_seed_others(finished, tmp_path):
    folder, _ = finished
    train(tmp_path / "again")
    train(tmp_path / "other", seed=2)
    assert records(tmp_path / "again") == records(folder)
    assert records(tmp_path / "other") != records(folder)


class StopAt(Observer):
    """Sends this process a signal when a given moment comes."""

    def __init__(self, moment, number=signal.SIGTERM):
        self.moment, self.number = moment, number

    def step(self, step, loss, kl_weight, lr):
        if self.moment == step:
            os.kill(os.getpid(), self.number)

    def evaluating(self, what, done, total):
        if self.moment == what:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("moment", "number"),
    [(moment, signal.SIGTERM) for moment in (1, 17, 29, 30, 59, "test", "valid")] + [(17, signal.SIGINT)],
)
def test_a_stopped_run_ends_with_the_same_numbers(finished, tmp_path, moment, number):
    folder, summary = finished
    with pytest.raises(Interrupted) as stop:
        train(tmp_path / "s1", observer=StopAt(moment, number))
    assert stop.value.exit_code == 130
    assert read_jsonl(tmp_path / "s1" / "metrics.jsonl")  # readable meanwhile
    again = train(tmp_path / "s1")
    assert records(tmp_path / "s1") == records(folder)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in summary.items() if k != "seconds"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped at step 40, with the checkpoint of step 39 beside the last."""
    folder = tmp_path_factory.mktemp("stopped") / "s1"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # one at every step
        train(folder, observer=StopAt(40))
    return folder


@pytest.mark.parametrize("damage", ["cut", "garbled", "one bit"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, stopped, tmp_path, damage):
    shutil.copytree(stopped, tmp_path / "s1")
    last = tmp_path / "s1" / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "garbled":
        content[:] = b"no checkpoint at all"
    else:
        content[len(content) // 2] ^= 1
    last.write_bytes(content)
    notes = []

    class Listener(Observer):
        def note(self, text):
            notes.append(text)

    train(tmp_path / "s1", observer=Listener())
    assert records(tmp_path / "s1") == records(finished[0])
    assert len(notes) == 1 and "one before" in notes[0]


def test_two_damaged_checkpoints_are_an_error(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"a": torch.ones(3)})
    save_checkpoint(path, {"a": torch.zeros(3)})
    for file in tmp_path.glob("*.pt"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        latest_checkpoint(path)


def test_loading_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, ("touch " + str(tmp_path / "owned"),))

    torch.save({"digest": "", "x": Evil()}, tmp_path / "last.pt")
    with pytest.raises(DataError):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_a_second_process_is_refused(tmp_path):
    with locked(tmp_path / "s1"), pytest.raises(UsageError, match="Another process"):
        train(tmp_path / "s1")


def test_a_checkpoint_with_other_names_or_in_another_order_is_refused(tmp_path):
    """A model that lists its matrices in a new order would train on with moments of others."""
    run = tmp_path / "s1"
    with pytest.raises(Interrupted):
        train(run, observer=StopAt(30))
    saved, _ = latest_checkpoint(next((run / "checkpoints").glob("last*.pt")))
    training = assemble(lambda: SRGNN(V, dim=8), CONFIG, examples_of(DATA, CONFIG, torch.device("cpu"))[0], 1, "full")
    last = run / "checkpoints" / "last.pt"
    restore(training, saved, last)
    weights = saved["model"]
    first = next(iter(weights))
    for changed, says in (
        (dict(reversed(weights.items())), "its parameters stand in another order"),
        ({name: weights[name] for name in weights if name != first}, f"it has no {first}"),
        ({**weights, "more": weights[first]}, "it has more, which the model does not have now"),
        ({**weights, first: weights[first][:-1]}, "size mismatch"),
    ):
        with pytest.raises(DataError, match=f"another version of the model: .*{says}") as error:
            restore(training, {**saved, "model": changed}, last)
        assert error.value.hint == f"Begin the run anew; what is there is kept aside: dissect resume {run} --force"


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / "s1", observer=StopAt(30))
    with pytest.raises(DataError, match="another configuration"):
        train(tmp_path / "s1", replace(CONFIG, lr=0.01))


def test_a_full_disk_is_an_error_that_says_so(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    save_checkpoint(tmp_path / "last.pt", {"a": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DissectError, match="No space left"):
        save_checkpoint(tmp_path / "last.pt", {"a": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.pt") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("what", ["items", "readout.transform.bias"])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_record(tmp_path, what):
    def build():
        model = SRGNN(V, 8)
        with torch.no_grad():
            model.get_parameter(what).view(-1)[0] = float("nan")
        return model

    with pytest.raises(DivergedError) as error:
        fit(build, DATA, CONFIG, tmp_path / "s1", seed=1)
    assert error.value.exit_code == 4
    assert what in error.value.message and "step 1 " in error.value.message
    assert read_jsonl(tmp_path / "s1" / "density.jsonl")
    assert not is_done(tmp_path / "s1")


def test_scores_that_are_no_numbers_are_not_ranked():
    """They would put every target first."""
    model, prefixes = SRGNN(V, 8), prefixes_of(DATA.test)
    for name in ("items", "readout.transform.bias"):
        broken = SRGNN(V, 8)
        with torch.no_grad():
            broken.get_parameter(name)[0] = float("nan")
        with pytest.raises(DivergedError, match="no longer numbers"):
            evaluate(broken, prefixes)
    assert evaluate(model, prefixes).max() > 1


def test_a_folder_in_use_is_not_set_aside(tmp_path):
    with locked(tmp_path / "s1"), pytest.raises(UsageError, match="Another process"):
        set_aside(tmp_path / "s1")
    assert set_aside(tmp_path / "s1").name == "s1.old-1" and not (tmp_path / "s1").exists()


def test_configurations_are_read_back_whatever_is_in_them(tmp_path):
    write_toml(tmp_path / "config.toml", {"name": 'shop \U0001f600 \u00e9 "q" \\ \n'})
    assert tomllib.loads((tmp_path / "config.toml").read_text())["name"] == 'shop \U0001f600 \u00e9 "q" \\ \n'


def test_schedules():
    config = replace(CONFIG, max_steps=100)
    assert [kl_weight_at(config, s) for s in (0, 15, 30, 99)] == [0, 0.5, 1, 1]
    assert [lr_at(config, s, 10) for s in (0, 79, 80)] == [1e-3] * 3
    assert lr_at(config, 90, 10) == pytest.approx(5e-4) and lr_at(config, 100, 10) == 0
    stepped = replace(config, schedule="steps")
    assert [lr_at(stepped, s, 10) for s in (0, 29, 30, 60)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert kl_weight_at(replace(config, kl_warmup=0.0), 0) == 1


def test_the_hash_is_of_the_settings():
    assert CONFIG.hash == replace(CONFIG).hash
    assert CONFIG.hash != replace(CONFIG, lr=2e-3).hash != replace(CONFIG, split_hash="x").hash
    assert json.loads(json.dumps(CONFIG.to_dict())) == CONFIG.to_dict()


@pytest.mark.parametrize(
    "setting", [{"lr": 0}, {"batch_size": 0}, {"kl_warmup": 2}, {"schedule": "x"}, {"validation": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(UsageError, match=next(iter(setting))):
        replace(CONFIG, **setting)


def test_the_chosen_epoch_is_the_best_on_validation(tmp_path):
    config = replace(CONFIG, where="none", select="mrr@20", max_steps=150, schedule="steps")
    summary = train(tmp_path / "s1", config)
    lines, density = records(tmp_path / "s1")
    valid = {r["step"]: r["mrr@20"] for r in lines if r["kind"] == "eval" and r["split"] == "valid"}
    assert summary["selected"]["step"] == max(valid, key=lambda step: (valid[step], -step))
    test = {r["step"]: r["mrr@20"] for r in lines if r["kind"] == "eval" and r["split"] == "test"}
    assert summary["test"]["mrr@20"] == test[summary["selected"]["step"]]
    assert summary["selection_bias"]["mrr@20"] == pytest.approx(max(test.values()) - summary["test"]["mrr@20"])
    assert not density


def test_patience_stops_a_run_that_gets_no_better(tmp_path):
    config = replace(CONFIG, where="none", select="mrr@20", max_steps=100_000, patience=2, lr=0.05)
    summary = train(tmp_path / "s1", config)
    assert summary["steps"] < 5_000
    assert summary["epochs"] - summary["selected"]["epoch"] == pytest.approx(2)


def test_a_resumed_run_adds_up_with_the_threads_it_began_with(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(Interrupted):
            train(tmp_path / "s1", observer=StopAt(20))
        torch.set_num_threads(1)
        train(tmp_path / "s1")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_none_is_refused():
    with pytest.raises(UsageError, match="no device named 'gpu'"):
        prepare_device("gpu")


def test_an_auxiliary_loss_that_is_no_number_ends_the_run(tmp_path):
    class Sick(SRGNN):
        def encode(self, S, batch):
            return super().encode(S, batch), {"sick": torch.tensor(float("nan"))}

    with pytest.raises(DivergedError, match="no longer a number at step 1"):
        fit(lambda: Sick(V, 8), DATA, CONFIG, tmp_path / "s1", seed=1)


def test_a_layer_that_makes_the_candidates_is_dissected_too(tmp_path):
    class Mapped(SRGNN):
        def __init__(self):
            super().__init__(V, 8)
            self.map = torch.nn.Linear(8, 8, bias=False)

        def candidates(self, S):
            return self.map(S), None

    summary = fit(Mapped, DATA, replace(CONFIG, max_steps=2), tmp_path / "s1", seed=1)
    assert "map" not in summary["left_out"] and "map" in {row["matrix"] for row in summary["density"]}


def test_a_model_of_ones_own_may_have_layers_that_cannot_be_replaced(tmp_path):
    class Reading(SRGNN):
        def __init__(self):
            super().__init__(V, 8)
            self.mix = torch.nn.RNN(8, 8)

        def encode(self, S, batch):
            return self.mix(super().encode(S, batch))[0]

    summary = fit(Reading, DATA, replace(CONFIG, max_steps=2), tmp_path / "s1", seed=1)
    assert summary["left_out"]["mix"] == "no SparseVD layer for RNN"


@pytest.mark.parametrize("longest", [0, 3])
def test_the_kl_is_divided_by_the_targets_of_an_epoch(longest):
    """With a target after every click, a session that is cut to its last clicks has fewer of them than prefixes."""
    prefixes = prefixes_of(DATA.train, longest=longest)
    lengths = np.asarray(DATA.train.lengths)
    targets = np.minimum(lengths - 1, longest or lengths.max()).sum()
    assert ExampleOrder(prefixes, CONFIG, 1, every_position=True).targets == targets
    assert ExampleOrder(prefixes, CONFIG, 1).targets == len(prefixes) >= targets


def test_a_loss_that_diverges_beside_the_model_is_told_from_one_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train_beside", lambda *_: math.nan)
    with pytest.raises(DivergedError, match="suspect: the shadows and controls, which train beside the model"):
        train(tmp_path / "s1")
