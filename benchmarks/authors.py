"""A training step of a model beside a step of its authors' code, in turn in one process, on the same sessions.

    git clone https://github.com/twchen/lessr ../lessr
    pip install dgl==1.1.3
    OMP_NUM_THREADS=1 python benchmarks/authors.py lessr ../lessr --dataset diginetica-srgnn --dim 32

Without its code or a library that it needs, each says where to get it. Nothing of that code is here: it is imported
from the folder that you name, so read it first. Both sides train on the same prefixes, each with its own optimiser, and
make their batches from the sessions (RecBole-GNN makes its graphs once for a data set, outside the time). "made before"
leaves out the making of the other side's batch, as if its worker processes had cores of their own; our time always has
it. Steps alternate, so compare the ratios.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dissect.data import catalog
from dissect.data.sessions import Dataset
from dissect.errors import DissectError
from dissect.runs.config import PRODUCTS, Config
from dissect.training.device import prepare_device
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import ExampleOrder, train_step
from dissect.training.scoring import score_buffer
from dissect.training.setup import assemble, choose_kernel
from models import MODELS

Examples = Sequence[tuple[list[int], int]]  # the clicks of a prefix and its target, items from 1
Theirs = tuple[Callable[[Examples], Any], Callable[[Any], None]]  # makes a batch; makes a step of it


def stand_in(name: str, **members: Any) -> None:
    """A module that a step does not need, so that nobody has to install it."""
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(members)


def lessr(data: Dataset, dim: int, batch_size: int, examples: Sequence[Examples]) -> Theirs:
    """Their AdamW with weight decay 1e-4 and without it on biases and norms, as in their training script."""
    collate, train = import_module("utils.data.collate"), import_module("utils.train")
    model = import_module("lessr").LESSR(data.n_items, dim, 4, feat_drop=0.2).train()
    adam = torch.optim.AdamW(train.fix_weight_decay(model), lr=1e-3, weight_decay=1e-4)
    joined = collate.collate_fn_factory(collate.seq_to_eop_multigraph, collate.seq_to_shortcut_graph)

    def step(batch: Any) -> None:
        graphs, targets = batch
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(*graphs), targets)
        loss.backward()
        adam.step()
        loss.item()

    return lambda of: joined([([item - 1 for item in clicks], target - 1) for clicks, target in of]), step


def dhcn(data: Dataset, dim: int, batch_size: int, examples: Sequence[Examples]) -> Theirs:
    """On a CPU, and without autograd's search for anomalies, which their script switches on."""
    stand_in("numba", jit=lambda **_: lambda function: function)  # for their evaluation only
    if not torch.cuda.is_available():
        torch.cuda.FloatTensor = torch.FloatTensor  # type: ignore[misc]
    util, module = import_module("util"), import_module("model")
    module.np = SimpleNamespace(sum=lambda layers, axis: sum(layers), vstack=np.vstack)  # numpy takes no such tensors
    every = [(data.train[s][:-1].tolist(), int(data.train[s][-1])) for s in range(len(data.train))]
    wanted = [example for of in examples for example in of]
    raw = np.empty(len(every) + len(wanted), dtype=object)  # their hypergraph is made of all of it
    raw[:] = [clicks for clicks, _ in every + wanted]
    given = util.Data((raw, [target for _, target in every + wanted]), n_node=data.n_items)
    model = module.DHCN(
        given.adjacency, data.n_items, 1e-3, 3, 1e-5, 0.01, "diginetica", emb_size=dim, batch_size=batch_size
    ).train()

    def batch(of: Examples) -> Any:
        given.raw = np.empty(len(of), dtype=object)
        given.raw[:] = [clicks for clicks, _ in of]
        given.targets = np.array([target for _, target in of])
        return given.get_slice(np.arange(len(of)))

    def step(made: Any) -> None:
        model.zero_grad()
        holder = SimpleNamespace(get_slice=lambda _: made, get_overlap=given.get_overlap)
        targets, scores, contrast = module.forward(model, None, holder)
        loss = model.loss_function(scores + 1e-8, targets) + contrast
        loss.backward()
        model.optimizer.step()
        loss.item()

    return batch, step


def gcsan(data: Dataset, dim: int, batch_size: int, examples: Sequence[Examples]) -> Theirs:
    """The port's four blocks with one set of weights; its sessions are padded to the longest of the data set."""
    stand_in("torchsummary", summary=None)
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = lambda self, device=None: self  # type: ignore[method-assign]
    util, module = import_module("utils"), import_module("model")
    longest = int(data.train.lengths.max()) - 1
    opt = SimpleNamespace(hiddenSize=dim, batchSize=batch_size, nonhybrid=False, step=1, lr=1e-3, l2=1e-5)
    opt.lr_dc_step, opt.lr_dc, opt.dynamic = 3, 0.1, False
    model = module.SessionGraph(opt, data.n_items + 1, longest).train()

    def batch(of: Examples) -> Any:
        clicks, targets = zip(*of, strict=True)
        given = util.Data(([[0] * longest, *clicks], [0, *targets]), opt=opt)  # the first row makes it pad as usual
        return given.get_slice(np.arange(1, len(of) + 1))

    def step(made: Any) -> None:
        model.optimizer.zero_grad()
        targets, scores = module.forward(model, None, SimpleNamespace(get_slice=lambda _: made))
        loss = model.loss_function(scores, torch.tensor(targets) - 1)
        loss.backward()
        model.optimizer.step()
        loss.item()

    return batch, step


def sgnnhn(data: Dataset, dim: int, batch_size: int, examples: Sequence[Examples]) -> Theirs:
    """The port in SR-PredictAO, without the forest that it adds. Sessions are padded to ten clicks, their last."""
    stand_in("deep_neural_decision_forests", NeuralDecisionForest=lambda *_, **__: None)
    util, module = import_module("utils"), import_module("model")
    opt = SimpleNamespace(hiddenSize=dim, batchSize=batch_size, step=1, tau=12, cutnum=10)
    opt.lr, opt.l2, opt.lr_dc_step, opt.lr_dc = 1e-3, 1e-4, 10, 0.1
    model = module.SessionGraph(opt, data.n_items + 1).train()

    def batch(of: Examples) -> Any:
        clicks, targets = zip(*of, strict=True)
        given = util.Data(([[0] * 10, *clicks], [0, *targets]), opt)  # the first row makes it pad as usual
        return given.get_slice_gnn(np.arange(1, len(of) + 1))

    def step(made: Any) -> None:
        """Their `forward`, which cannot leave out the forest, written anew."""
        alias, graph, items, mask, targets = (torch.from_numpy(np.array(part)) for part in made)
        model.optimizer.zero_grad()
        nodes = items.sign()
        states, star = model(items, graph.float(), nodes)
        clicks = torch.stack([states[row][alias[row]] for row in range(len(alias))])
        loss = model.loss_function(model.compute_scores(clicks, states, star, mask, nodes), targets - 1)
        loss.backward()
        model.optimizer.step()
        loss.item()

    return batch, step


def recbole(name: str, settings: dict[str, Any]) -> Callable[..., Theirs]:
    """A model of RecBole-GNN. It reads the last 50 clicks of a session, and pads to the longest of the batch."""

    def made(data: Dataset, dim: int, batch_size: int, examples: Sequence[Examples]) -> Theirs:
        stand_in("torch_sparse", matmul=None)  # only models without sessions use it
        Interaction = import_module("recbole.data.interaction").Interaction
        join = import_module("recbole_gnn.data.transform").SessionGraph(None)
        fields = {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_"}
        fields |= {"ITEM_LIST_LENGTH_FIELD": "length", "MAX_ITEM_LIST_LENGTH": 50, "loss_type": "CE", "device": "cpu"}
        of_data = SimpleNamespace(num=lambda field: data.n_items + 1, field2seqlen={"item_list": 50})
        widths = {"hidden_size": dim, "inner_size": dim, "embedding_size": dim}
        model = import_module(f"recbole_gnn.model.sequential_recommender.{name.lower()}")
        model = getattr(model, name)({**fields, **widths, **settings}, of_data).train()
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        graphs: dict[str, list[torch.Tensor]] = {"x": [], "edge_index": [], "alias_inputs": []}
        place: dict[int, int] = {}  # of the graph of an example
        for example in (example for of in examples for example in of):
            items, alias = torch.unique(torch.tensor(example[0][-50:]), return_inverse=True)
            place[id(example)] = len(graphs["x"])
            graphs["x"].append(items)
            graphs["alias_inputs"].append(alias)
            graphs["edge_index"].append(torch.stack([alias[:-1], alias[1:]]).unique(dim=-1))

        def batch(of: Examples) -> Any:
            columns = {"graph_idx": torch.tensor([place[id(example)] for example in of])}
            columns["length"] = torch.tensor([min(len(clicks), 50) for clicks, _ in of])
            columns["item"] = torch.tensor([target for _, target in of])
            return join(SimpleNamespace(graph_objs=graphs), Interaction(columns))

        def step(made: Any) -> None:
            adam.zero_grad()
            loss = model.calculate_loss(made)
            loss.backward()
            adam.step()
            loss.item()

        return batch, step

    return made


RECBOLE_GCSAN = {
    "n_layers": 1,
    "n_heads": 1,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "hidden_act": "gelu",
}
RECBOLE_GCSAN |= {"layer_norm_eps": 1e-12, "initializer_range": 0.02, "step": 1, "weight": 0.6, "reg_weight": 5e-5}
SGNNHN = {"steps": 6, "highway": False, "length": 50}
RECBOLE = ("https://github.com/RUCAIBox/RecBole-GNN", "recbole_gnn/data/transform.py", "torch_geometric recbole")


class Other(NamedTuple):
    """Somebody else's code: of which model of ours, with the options that make the same layers; and where to get it."""

    model: str
    options: dict[str, Any]
    step: Callable[..., Theirs]
    url: str
    holds: str  # a file of it
    needs: str = ""  # what pip installs for it
    dim: int = 0  # the one width that it can have; 0: any
    folder: str = ""  # in which it is


PORT = MODELS["gcsan"].presets["port"]
OTHERS = {
    "lessr": Other(
        "lessr", {"layers": 4}, lessr, "https://github.com/twchen/lessr", "utils/data/collate.py", "dgl==1.1.3"
    ),
    "dhcn": Other("dhcn", {}, dhcn, "https://github.com/xiaxin1998/DHCN", "util.py", dim=100),
    # The third-party port that papers cite.
    "gcsan": Other(
        "gcsan", PORT, gcsan, "https://github.com/johnny12150/GC-SAN", "utils.py", dim=120, folder="pytorch_code"
    ),
    "sgnnhn": Other(
        "sgnnhn",
        MODELS["sgnnhn"].presets["pao"],
        sgnnhn,
        "https://github.com/RickySkywalker/SR-PredictAO-official",
        "utils.py",
        folder="SGNNHN+NDF",
    ),
    # Their loss also has the norm of the item table.
    "gcsan-recbole": Other("gcsan", {"blocks": 1, "output": True}, recbole("GCSAN", RECBOLE_GCSAN), *RECBOLE),
    "sgnnhn-recbole": Other("sgnnhn", SGNNHN, recbole("SGNNHN", {"step": 6, "scale": 12}), *RECBOLE),
}


def ours(
    model: str, data: Dataset, options: dict[str, Any], batch_size: int, products: str
) -> tuple[Any, ExampleOrder, Callable]:
    """The prefixes, their order, and a step as a function of an index [B]."""
    prefixes = prefixes_of(data.train)
    config = Config(
        model,
        data.name,
        data.split_hash,
        options,
        where="none",
        batch_size=batch_size,
        max_steps=100_000,
        l2=1e-5,
        products=products,
    )
    training = assemble(lambda: MODELS[model](n_items=data.n_items, **options), config, prefixes, 1, "full")
    choose_kernel(training, data.n_items, "cpu")
    buffer = score_buffer(batch_size, data.n_items, "cpu")
    order = ExampleOrder(prefixes, config, 1, False)
    return prefixes, order, lambda index: train_step(training, prefixes.batch(index), 0.0, buffer)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Of one call, and what it returned."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


@click.command()
@click.argument("name", metavar="MODEL", type=click.Choice(list(OTHERS)))
@click.argument("code", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--dataset", default="diginetica", show_default=True, help="Of `dissect data list`.")
@click.option("--data-dir", help="Where data sets are.")
@click.option("--dim", type=click.IntRange(1), help="Width D [default: 256, or the one that the code can have].")
@click.option("--batch-size", default=100, type=click.IntRange(2), show_default=True, help="Prefixes in a step.")
@click.option(
    "--products",
    type=click.Choice(PRODUCTS),
    default="float32",
    show_default=True,
    help="Precision of our products with the catalogue; all else is in float32.",
)
@click.option("--rounds", default=30, type=click.IntRange(1), show_default=True, help="Timed steps of each side.")
def main(
    name: str,
    code: Path,
    dataset: str,
    data_dir: str | None,
    dim: int | None,
    batch_size: int,
    products: str,
    rounds: int,
) -> None:
    """Print how long a step of MODEL takes here, and by other people's code in the folder CODE.

    MODEL is lessr, dhcn, gcsan, sgnnhn, gcsan-recbole or sgnnhn-recbole.
    """
    other = OTHERS[name]
    if other.dim and dim not in (None, other.dim):
        raise click.UsageError(f"The code of {name} has --dim {other.dim} and no other.")
    if not (code / other.folder / other.holds).is_file():
        raise click.UsageError(f"{code} has no {Path(other.folder) / other.holds}. Get it: git clone {other.url}")
    try:
        compare(name, code, catalog.load(dataset, data_dir), dim or other.dim or 256, batch_size, products, rounds)
    except ImportError as error:
        raise click.ClickException(f"{error}. Its code needs: pip install {other.needs or error.name}") from error
    except DissectError as error:
        raise click.ClickException(" ".join(filter(None, (error.message, error.hint)))) from error


def compare(name: str, code: Path, data: Dataset, dim: int, batch_size: int, products: str, rounds: int) -> None:
    """Print the table."""
    prepare_device("cpu")
    other = OTHERS[name]
    model, options = other.model, other.options
    sys.path.insert(0, str(code / other.folder))
    prefixes, order, step = ours(model, data, {**options, "dim": dim}, batch_size, products)
    indices = [order.batch(number) for number in range(rounds + 3)]
    examples = []
    for index in indices:
        batch = prefixes.batch(index)
        rows = zip(batch.items.tolist(), batch.lengths.tolist(), batch.targets.tolist(), strict=True)
        examples.append([(clicks[:length], target) for clicks, length, target in rows])
    make, their_step = other.step(data, dim, batch_size, examples)
    times = []
    for index, of in zip(indices, examples, strict=True):
        mine, _ = seconds(lambda index=index: step(index))
        making, made = seconds(lambda of=of: make(of))
        stepping, _ = seconds(lambda made=made: their_step(made))
        times.append((1e3 * mine, 1e3 * (making + stepping), 1e3 * stepping))
    here, whole, before = (statistics.median(column) for column in zip(*times[3:], strict=True))  # the first warm up
    precision = "float32" if products == "float32" else f"float32, our products with the catalogue in {products}"
    table = Table(title=f"{name} on {data.name}: V = {data.n_items:,}, {torch.get_num_threads()} threads, {precision}")
    for column in ("D", "B", "ours ms", "theirs ms", "made before ms", "theirs / ours", "made before / ours"):
        table.add_column(column, justify="right")
    table.add_row(
        str(dim),
        str(batch_size),
        *(f"{milliseconds:.1f}" for milliseconds in (here, whole, before)),
        f"{whole / here:.2f}",
        f"{before / here:.2f}",
    )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
