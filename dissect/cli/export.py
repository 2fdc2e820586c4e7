"""dissect export: a trained model without what was pruned whole, for serving."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from dissect.cli import options

WIDTH = "Leave out columns of the item table and the catalogue, too, where no score needs them."
ONNX = "Write model.onnx, too: items [B, L] and lengths [B] in, scores [B, V] out. Needs the extra onnx."


@options.verb(
    "export srgnn-demo/s1 --out small",
    "export runs/srgnn-shop-58ce72c0/s1 --out small --item-width",
    "recommend small --session 12,7,99",
)
@click.option("--out", required=True, metavar="FOLDER", help="Where to write the export: a new folder.")
@click.option("--item-width", is_flag=True, help=WIDTH)
@click.option("--onnx", is_flag=True, help=ONNX)
@click.option("--force", is_flag=True, help="Replace the export that is in FOLDER. No other folder is touched.")
@options.of_run(device=lambda command: command)
def command(run: str, runs_dir: str, as_json: bool, quiet: bool, out: str, **given: Any) -> None:
    """Write the trained model of RUN to a folder, as small as it can be with the same scores.

    RUN is a seed's folder, or a group with one seed. Rows and columns of weight matrices that the training pruned whole
    are left out, with what they alone fed, and parts that give the same scores when they are left out. Zeros that lie
    scattered in a matrix save nothing. The scores are compared, and the accuracy on test and the time are measured,
    before the folder appears. `dissect recommend FOLDER` and `dissect evaluate FOLDER` use it like a run.
    """
    from pathlib import Path

    from dissect.cli import screen
    from dissect.experiment.export import export
    from dissect.experiment.opened import finished_run
    from dissect.progress import telling
    from dissect.tables.exports import on_screen

    record, tell = finished_run(run, runs_dir, dissected=True), partial(options.say, quiet=quiet)
    with telling(quiet=quiet) as report:
        found = export(record, Path(out), options.loader(tell), report=report, **given)
    screen.show_json(found) if as_json else screen.show(*on_screen(found, out), sep="\n")
