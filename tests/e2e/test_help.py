"""What a newcomer reads: introduction, help, recipes."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import dare
from trainer.arguments import parse_config

ROOT = Path(__file__).parents[2]
LIFELONG = ROOT / "launch" / "recipes" / "synthetic_lifelong.yaml"
RECIPES = sorted({*LIFELONG.parent.glob("*.yaml")} - {LIFELONG})
COMMANDS = (
    *("doctor", "prepare", "plan", "train", "evaluate", "export"),
    *("analyze", "sweep", "compare"),
    *("runs", "runs compare"),
    *("bench all", "bench check", "bench train", "bench search", "bench serve"),
    *("bench exchange", "bench prepare"),
)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_introduction_names_every_command(arguments):
    outcome = dare(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    for command in COMMANDS:
        assert f"dare {command}" in outcome.out


@pytest.mark.parametrize("command", ["plan", "train", "evaluate", "export"])
def test_help_of_a_run_explains_every_field(command):
    outcome = dare(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    usage, _, fields = outcome.out.partition("\n\n")
    assert len(usage.splitlines()) <= 2
    for told in ("--loop.epochs EPOCHS", "Passes over the training data.", "default: 0.01"):
        assert told in fields


@pytest.mark.parametrize("source", ["synthetic", "taobao", "tmall", "movielens", "csv", "parquet"])
def test_help_of_a_source_shows_what_it_needs(source):
    outcome = dare("prepare", source, "--help")
    assert outcome.code == 0
    usage = outcome.out.splitlines()[0]
    assert usage.startswith(f"usage: dare prepare {source} ")
    assert "--out OUT" in usage
    assert ("--raw RAW" in usage) == (source not in ("synthetic", "parquet"))


@pytest.mark.parametrize("command", ["runs", "runs compare"])
def test_help_of_runs_explains_every_option(command):
    outcome = dare(*command.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"usage: dare {command} ")
    for told in ("--out FILE",) if "compare" in command else ("--state", "--sort", "--json"):
        assert told in outcome.out


def test_every_option_has_an_explanation():
    benches = ["bench", "train"], ["bench", "search"], ["bench", "serve"]
    for command in (
        ["plan"],
        ["train"],
        ["export"],
        ["sweep"],
        ["compare"],
        *benches,
        ["prepare", "csv"],
    ):
        blocks = dare(*command, "--help").out.split("\n  --")[1:]
        assert len(blocks) > 5
        for block in blocks:
            _option, _value, *explained = block.partition("(type:")[0].split()
            assert len(explained) >= 2, f"--{block} is not explained"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_only_what_there_is(recipe):
    config, _ = parse_config([f"--config={recipe}"])
    assert config.name == recipe.stem
    source, _, preset = recipe.stem.removeprefix("parity_").partition("_")
    assert config.model.preset == preset
    assert config.data.train == f"data/{source}/train"
    told = yaml.safe_load(recipe.read_text())
    assert config.data.history_length == told["data"]["history_length"]
    uses = config.model.embeddings.uses
    shared = uses.attention_target == uses.representation_target
    assert shared == (config.model.preset == "twin")


def test_the_lifelong_recipe_reads_whole_lives_of_the_log_that_make_prepares():
    config, _ = parse_config([f"--config={LIFELONG}"])
    assert (config.name, config.model.preset) == (LIFELONG.stem, "dare")
    said = (ROOT / "Makefile").read_text().replace("$(BIN)/", "").splitlines()
    (made,) = (line.split() for line in said if "dare prepare" in line and LIFELONG.stem in line)
    options = dict(zip(made[3::2], made[4::2], strict=True))
    assert config.data.train == f"{options['--out']}/train"
    assert config.data.history_length == int(options["--history_length"]) == 20_000
    assert int(options["--items"]) == 1_000_000
    # The decay ends with the one epoch, in steps of whole requests.
    requests, targets = int(options["--users"]) * int(options["--requests"]), options["--targets"]
    assert config.data.batch_size % int(targets) == 0
    assert config.optim.schedule.decay_steps == requests * int(targets) / config.data.batch_size
    (default,) = (line.split(" ?= ")[1] for line in said if line.startswith("LENGTHS ?= "))
    assert {*default.split()} <= {*options["--newest"].split(",")}


def test_recipes_come_in_pairs_that_differ_by_the_preset_alone():
    for dare_recipe in RECIPES[::2]:
        twin_recipe = dare_recipe.with_stem(dare_recipe.stem.replace("_dare", "_twin"))
        one, other = (yaml.safe_load(path.read_text()) for path in (dare_recipe, twin_recipe))
        assert one["model"].pop("preset") == "dare"
        assert other["model"].pop("preset") == "twin"
        one.pop("name")
        other.pop("name")
        assert one == other


def test_doctor_finds_nothing_wrong_and_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "doctor"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 errors")
