"""The subcommands of `dare`: one function each, from its arguments to its exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from trainer.parsing import choose, make_parser, values_of
from trainer.telling import print_result


def doctor(arguments: list[str]) -> int:
    """Check the installation; exit code 1 where training could not work."""
    from trainer.doctor.doctor import diagnose, format_findings, has_errors

    parser = make_parser("dare doctor", "Check versions, libraries and devices; say what to do.")
    parser.parse_args(arguments)
    findings = diagnose()
    print(format_findings(findings))
    return 1 if has_errors(findings) else 0


def prepare(arguments: list[str]) -> int:
    """Turn a log into a dataset."""
    from pipelines.prepare.csv_log import prepare_csv
    from pipelines.prepare.existing import describe_parquet
    from pipelines.prepare.movielens import prepare_movielens
    from pipelines.prepare.summary import format_summary
    from pipelines.prepare.taobao import prepare_taobao
    from pipelines.prepare.tmall import prepare_tmall
    from pipelines.synthetic import prepare_synthetic
    from trainer.telemetry.logs import configure_logging

    sources: dict[str, Callable[..., Any]] = {
        "synthetic": prepare_synthetic,
        "taobao": prepare_taobao,
        "tmall": prepare_tmall,
        "movielens": prepare_movielens,
        "csv": prepare_csv,
        "parquet": describe_parquet,
    }
    name, options = choose(
        "dare prepare",
        "Turn a log into train/, val/, test/ and schema.json. "
        "`dare prepare SOURCE --help` explains a source's options.",
        "SOURCE",
        sources,
        arguments,
    )
    configure_logging(0)
    schema = sources[name](**options)
    print(format_summary(schema, options["out"]), file=sys.stderr)
    print(Path(options["out"]) / "schema.json")
    return 0


def plan(arguments: list[str]) -> int:
    """Place the tables of a run on machines."""
    from trainer.arguments import parse_run, run_parser

    parser = run_parser(
        "dare plan",
        "Place the tables of a run on the machines of a planner config, which need not be here. "
        "Without prepared data, give data.item_rows, data.category_rows and data.feature_rows.",
        "[--plan FILE] [--out FILE] [--picture FILE]",
    )
    parser.add_argument(
        "--plan", default="", metavar="FILE", help="planner config, in place of sharding.plan"
    )
    parser.add_argument(
        "--out",
        default="",
        metavar="FILE",
        help="write the plan, to train with sharding.saved_plan",
    )
    parser.add_argument(
        "--picture", default="", metavar="FILE", help="draw the ranks' memory: .svg or .png"
    )
    config, _, parsed = parse_run(parser, arguments)
    from trainer.planner.command import plan_run, with_plan

    config = with_plan(config, parsed.plan)
    text, figures = plan_run(config, out=parsed.out, picture=parsed.picture)
    print(text, file=sys.stderr)
    print(json.dumps(figures))
    return 0


def train(arguments: list[str]) -> int:
    """Train, evaluate, report."""
    from trainer.arguments import parse_run

    config, text, parsed = parse_run(_train_parser(), arguments)
    from trainer.job import train_job
    from trainer.reliability.stopping import Stopped
    from trainer.telemetry.trackers import check_trackers

    check_trackers(config.telemetry.trackers)
    try:
        result = train_job(config, text, resume=parsed.resume, overwrite=parsed.overwrite)
    except Stopped as stopped:
        return stopped.exit_code
    if int(os.environ.get("RANK", "0")) == 0:
        folder = Path(config.out_dir) / config.name
        print_result(json.dumps(result), folder / "result.json")
    return 0


@functools.cache
def _train_parser() -> ArgumentParser:
    """Made once in a process, which takes longer than to parse; a sweep may train in its own."""
    from trainer.arguments import run_parser

    parser = run_parser(
        "dare train",
        "Train, evaluate and report. Under torchrun: "
        "`torchrun --nproc-per-node 2 -m trainer train --config FILE`.",
        "[--resume | --overwrite]",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint of this run"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete what the run's folder holds, start anew"
    )
    return parser


def replay(arguments: list[str]) -> int:
    """Run a batch whose loss was not finite; exit code 1 where its loss is another one."""
    from trainer.reliability.replay import describe, replay

    parser = make_parser(
        "dare replay",
        "Run the forward pass of a batch whose loss was not finite, on one CPU, and tell where it "
        "stops being finite. A run keeps such a batch below its folder's bad_batches/.",
        "dare replay FILE",
    )
    parser.add_argument(
        "file", help="such as runs/NAME/bad_batches/step-00000123-rank-0.safetensors"
    )
    told = replay(parser.parse_args(arguments).file)
    print(describe(told), file=sys.stderr)
    print(json.dumps(told))
    return 0 if told["reproduced"] else 1


def evaluate(arguments: list[str]) -> int:
    """Score a split with a checkpoint."""
    from trainer.arguments import parse_run, run_parser

    parser = run_parser(
        "dare evaluate",
        "Score a split with a checkpoint of a run; give the config.yaml of the run's folder.",
        "[--split SPLIT] [--at CHECKPOINT]",
    )
    parser.add_argument("--split", choices=["val", "test", "train"], default="test", help="which")
    parser.add_argument(
        "--at",
        default="best",
        metavar="CHECKPOINT",
        help="`best` by validation AUC, `last`, or the name of a checkpoint's folder",
    )
    config, text, parsed = parse_run(parser, arguments)
    from trainer.distributed import run_context
    from trainer.loop import Trainer
    from trainer.outcome import finite
    from trainer.telemetry.logs import configure_logging

    with run_context() as context:
        configure_logging(context.rank)
        trainer = Trainer(config, context, text)
        checkpoint = trainer.checkpoints.find(parsed.at)
        steps = trainer.load(checkpoint).step
        metrics = trainer.evaluate(parsed.split).metrics
        scored = {"name": config.name, "split": parsed.split, "checkpoint": checkpoint, **metrics}
        best = trainer.schema.best_auc(parsed.split, config.data.history_length)
        scored |= {"oracle_auc": best, "steps": steps}
        if context.is_main:
            print(json.dumps(finite(scored)))
    return 0


def export(arguments: list[str]) -> int:
    """Write what is served of a checkpoint."""
    from trainer.arguments import parse_run, run_parser
    from trainer.export.export import ExportOptions, export_run
    from trainer.export.parity import format_parity
    from trainer.telemetry.logs import configure_logging

    parser = run_parser(
        "dare export",
        "Write a checkpoint of any number of ranks as one folder to serve from: tables of "
        "attention and of representation apart, the ranker, and a report on parity. Give the "
        "config.yaml of the run's folder. One process, no GPU.",
        "--out DIR [--at CHECKPOINT] [--precision fp32|bf16|int8]",
    )
    parser.add_class_arguments(ExportOptions)
    config, text, parsed = parse_run(parser, arguments)
    names = ExportOptions.__dataclass_fields__
    options = ExportOptions(**{name: parsed[name] for name in names})
    configure_logging(0)
    told = export_run(config, text, options)
    if "parity" in told:
        print(format_parity(told["parity"]), file=sys.stderr)
    print(json.dumps(told))
    return 0


def analyze(arguments: list[str]) -> int:
    """Look into a trained run."""
    from trainer.analysis.command import analyze_run, introduction

    if not arguments or arguments[0] in ("-h", "--help"):
        print(introduction())
        return 0
    print(analyze_run(arguments[0], arguments[1:]))
    return 0


def compare(arguments: list[str]) -> int:
    """Train models on logs of falling agreement."""
    from trainer.sweep.compare import compare

    summary = (compare.__doc__ or "").strip().splitlines()[0]
    parser = make_parser("dare compare", summary, "dare compare [--OPTION VALUE ...]")
    parser.add_function_arguments(compare)
    path, failed = compare(**values_of(parser.instantiate_classes(parser.parse_args(arguments))))
    print(path)
    return 1 if failed else 0


def sweep(arguments: list[str]) -> int:
    """Train many runs of a recipe; exit code 1 where one failed."""
    from trainer.sweep.grid import split_options
    from trainer.sweep.options import sweep_parser
    from trainer.sweep.sweep import sweep

    own, options = split_options(arguments)
    path, failed = sweep(**vars(sweep_parser().parse_args(own)), options=options)
    print(path)
    return 1 if failed else 0


def runs(arguments: list[str]) -> int:
    """List runs, or show how some differ."""
    from trainer.runs.command import compare_runs, list_runs

    named = arguments[:1] == ["compare"]
    print(compare_runs(arguments[1:]) if named else list_runs(arguments))
    return 0


def bench(arguments: list[str]) -> int:
    """Measure, print one JSON object; exit code 1 where a check failed."""
    from trainer.bench.all import bench_all
    from trainer.bench.check import bench_check
    from trainer.bench.exchange import bench_exchange
    from trainer.bench.prepare import bench_prepare
    from trainer.bench.search import bench_search
    from trainer.bench.serve import bench_serve
    from trainer.bench.train import bench_train

    benches: dict[str, Callable[..., Any]] = {
        "all": bench_all,
        "check": bench_check,
        "train": bench_train,
        "search": bench_search,
        "serve": bench_serve,
        "exchange": bench_exchange,
        "prepare": bench_prepare,
    }
    name, options = choose(
        "dare bench", "Measure; prints one JSON object.", "WHAT", benches, arguments
    )
    figures = benches[name](**options)
    if figures:  # Of all ranks, and from the first only.
        print(json.dumps(figures))
    return 1 if figures.get("failed") else 0
