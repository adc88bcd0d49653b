"""The options of `dare sweep` itself."""

from __future__ import annotations

from typing import get_args

from jsonargparse import ArgumentParser

from trainer.parsing import make_parser
from trainer.sweep.runs import Keep

_DESCRIPTION = """Train each preset with each seed on each dataset with each combination of varied
fields, one run after the other, to one table of mean ± std (Markdown, CSV, LaTeX, JSON), and a plot
over one varied number or two. Called again, it goes on: finished runs of what is asked for now are
kept, begun ones resumed, others made anew. Dotted options are those of `dare train`, for all
runs."""
_OPTIONS = (
    ("config", "", "FILE", "base recipe, such as launch/recipes/taobao_dare.yaml"),
    (
        "presets",
        "",
        "A,B",
        "models: names between commas, `all`, or `table1` for those of the paper's Table 1; the "
        "recipe's own where not given",
    ),
    ("seeds", "3", "N", "how many, from 1; or a list, such as 1,2,7"),
    (
        "data",
        "",
        "FOLDER,FOLDER",
        "prepared datasets, each with train/ val/ test/ schema.json; the recipe's own where not "
        "given",
    ),
    (
        "out",
        "runs/sweep",
        "FOLDER",
        "for `runs/`, each with its `log.txt`, and sweep.md, sweep.csv, sweep.tex, sweep.json and "
        "sweep.png",
    ),
    (
        "launcher",
        "",
        "COMMAND",
        'how a run is started, such as "torchrun --nproc-per-node 2 -m trainer"; one process of '
        "its own where not given; `here` for this process, which saves its start, but then a run "
        "that is killed ends the sweep",
    ),
)


def sweep_parser() -> ArgumentParser:
    """Reads the options of a sweep, but those for its runs."""
    usage = (
        "dare sweep --config FILE [--presets A,B] [--seeds N] [--vary FIELD=V,V ...] "
        "[--data FOLDER] [--SECTION.FIELD VALUE ...]"
    )
    parser = make_parser("dare sweep", _DESCRIPTION, usage)
    for name, default, value, explained in _OPTIONS:
        parser.add_argument(f"--{name}", type=str, default=default, metavar=value, help=explained)
    parser.add_argument(
        "--keep",
        choices=get_args(Keep),
        default="best",
        help="which checkpoints of a finished run stay (default: best, by validation AUC)",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FIELD=V,V",
        help="a field and its values, such as model.search.top_k=1,5,20; FIELD+FIELD=V,V sets both "
        "alike; several --vary make a product. `width`, `attention_width` and "
        "`representation_width` stand for the widths of item, category and position; where one "
        "table serves both, they set both",
    )
    return parser
