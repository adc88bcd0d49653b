"""What is exported is what was trained: rows, scores, and nothing that runs code."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.ids import hash_ids
from tests.commands import dare, dare_on_ranks, dare_without_report
from trainer.arguments import parse_config
from trainer.build import open_stream
from trainer.distributed import run_context
from trainer.evaluate import score_batches
from trainer.export.artefact import load_artefact
from trainer.export.parity import score_served
from trainer.export.program import load_program
from trainer.loop import Trainer
from trainer.sharding import local_parts


def train(data, folder, *options):
    """A run with rows of the size that trained ones have."""
    wide = ["--model.init.std=0.3", *options]
    done = dare_without_report("train", *data, f"--out_dir={folder}", *wide)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run):
    return export(run, run.parent / "artefact")


def export(run, out, *options):
    done = dare("export", f"--config={run / 'config.yaml'}", f"--out={out}", *options)
    assert done.code == 0, done.err
    return out


def trained(run):
    """Tables and test logits of the run's best checkpoint, as the trainer itself reads them."""
    config, text = parse_config([f"--config={run / 'config.yaml'}"])
    with run_context() as context:
        trainer = Trainer(config, context, text)
        trainer.load(trainer.checkpoints.find("best"))
        tables = {}
        for name, value in trainer.run.model.state_dict().items():
            if ".embeddings." in name or ".embedding_bags." in name:
                ((tensor, _),) = local_parts(value)
                tables[name.split(".")[-2]] = tensor.detach().clone()
        stream = open_stream(config, "test", trainer.schema, context)
        scored = list(score_batches(trainer.run, stream, context, config.loop.overlap))
    return tables, scored


def stored(folder):
    found = {}
    for file in ("attention", "representation"):
        found |= load_file(folder / f"{file}.safetensors")
    return found


def check_same(run, folder):
    tables, scored = trained(run)
    mine = stored(folder)
    assert mine.keys() == tables.keys()
    for name, table in tables.items():
        assert mine[name].equal(table), name
    artefact = load_artefact(folder)
    for rank in (artefact.ranker, artefact.program()):
        for batch, output in scored:
            logit_T = score_served(artefact, rank, batch).logit_T
            assert (logit_T.sigmoid() - output.logit_T.sigmoid()).abs().max() < 1e-5


def test_rows_and_scores_are_those_of_the_checkpoint(run, exported):
    check_same(run, exported)
    evaluated = dare("evaluate", f"--config={run / 'config.yaml'}").result
    told = json.loads((exported / "parity.json").read_text())
    assert (told["split"], told["requests"], told["targets"]) == ("test", 300, 1200)
    for road in ("module", "program"):
        assert told[road]["auc"] == pytest.approx(evaluated["auc"], abs=1e-5)
        assert told[road]["top_k_overlap"] == 1
        assert told[road]["beyond"] == 0
    for road in ("search_bf16", "search_int8"):
        assert 0.95 < told[road]["top_k_overlap"] <= 1
        assert abs(told[road]["auc_difference"]) < 0.01


@pytest.mark.dist
def test_two_ranks_with_another_plan_export_to_the_same_layout(data, exported, tmp_path):
    plan = tmp_path / "plan.yaml"
    row_wise = "{sharding_types: [row_wise]}"
    grid_rows = "{sharding_types: [table_row_wise]}"
    plan.write_text(f"tables: {{attention_item: {row_wise}, representation_item: {grid_rows}}}\n")
    options = [*data, f"--out_dir={tmp_path}", "--model.init.std=0.3", f"--sharding.plan={plan}"]
    assert dare_on_ranks(2, "train", *options).code == 0
    run = tmp_path / "run"
    kinds = {row["sharding"] for row in json.loads((run / "plan.json").read_text())}
    assert {"row_wise", "table_row_wise"} <= kinds
    # The plan was for two ranks; any reads what they have saved.
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace(str(plan), "launch/plans/1_process.yaml")
    )
    check_same(run, export(run, tmp_path / "artefact"))
    schemas = [
        json.loads((folder / "schema.json").read_text())
        for folder in (exported, tmp_path / "artefact")
    ]
    assert schemas[0]["tables"] == schemas[1]["tables"]


def test_fewer_bytes_cost_what_the_format_says(run, tmp_path):
    options = ["--precision=int8", "--representation_precision=bf16"]
    folder = export(run, tmp_path / "artefact", *options)
    tables, _ = trained(run)
    artefact = load_artefact(folder)
    for name, table in tables.items():
        about = artefact.schema.tables[name]
        assert about.precision == ("int8" if name.startswith("attention") else "bf16")
        if about.precision == "int8":
            assert artefact.tables[name].shape == (len(table), 16 + 8)
    ids = {"item": torch.arange(11), "category": torch.arange(11)}
    for use, names in artefact.schema.uses.items():
        truth = torch.cat([tables[name][:11] for name in names], dim=1)
        error = (artefact.rows(use, ids) - truth).abs()
        if use.startswith("attention"):
            halves = [
                (tables[name][:11].amax(1) - tables[name][:11].amin(1)) / 510 for name in names
            ]
            bound = torch.stack(halves, 1).repeat_interleave(16, dim=1) * 1.001
        else:
            bound = truth.abs() / 256
        assert (error <= bound).all()
        assert error.max() > 0
    told = json.loads((folder / "parity.json").read_text())["module"]
    assert 0 < told["score_error_mean"] < 0.01
    assert 0.95 < told["top_k_overlap"] <= 1
    assert abs(told["auc_difference"]) < 0.01


def test_a_service_needs_its_own_half_only(exported, tmp_path):
    half = shutil.copytree(exported, tmp_path / "half")
    (half / "representation.safetensors").unlink()
    with pytest.raises(ValueError, match=r"representation\.safetensors is missing"):
        load_artefact(half)
    artefact = load_artefact(half, "attention")
    ids = {"item": torch.tensor([3, 5]), "category": torch.tensor([1, 2])}
    assert artefact.rows("attention_target", ids).shape == (2, 32)
    found = artefact.ranker.find(
        artefact.rows("attention_target", ids),
        artefact.rows("attention_history", ids),
        ids["category"],
        ids["category"],
        torch.tensor(2),
    )
    assert found.kept.weight_RMK.sum(2).flatten().tolist() == pytest.approx([1, 1])


def example(folder, *arguments):
    """Lines of `docs/serve_example.py`."""
    program = Path(__file__).parents[2] / "docs" / "serve_example.py"
    assert len(program.read_text().splitlines()) <= 65
    env = {**os.environ, "PYTHONPATH": str(program.parents[1])}
    done = subprocess.run(
        [sys.executable, str(program), str(folder), *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_ranks_a_users_targets(exported):
    lines = example(exported, "7")
    assert lines[0] == "run (dare), step 10, 4 tables"
    clicks = [float(line.split("click ")[1].split(",")[0]) for line in lines[1:6]]
    assert clicks == sorted(clicks, reverse=True)
    assert lines[6] == "7 targets, 20 behaviours, one thread:"
    assert [" ms (99 %: " in line for line in lines[7:]] == [True] * 3


def test_the_example_ranks_with_a_search_that_is_no_dot_product_too(data, tmp_path):
    run = train(data, tmp_path, "--model.preset=eta")
    told = example(export(run, tmp_path / "artefact", "--split=none"), "3")
    assert told[0] == "run (eta), step 10, 2 tables"
    measured = [line.strip() for line in told if " ms (99 %: " in line]
    assert len(measured) == 2
    assert measured[0].startswith("lookup of all rows ")
    assert measured[1].startswith("search and prediction ")


def test_ids_are_hashed_as_in_training(data, tmp_path):
    """Hashed by hand, and given raw: the same rows, and so the same scores."""
    small = ("--data.ids=hash", "--data.item_rows=50", "--data.category_rows=10")
    run = train(data, tmp_path, *small)
    artefact = load_artefact(export(run, tmp_path / "artefact"))
    generator = torch.Generator().manual_seed(1)
    targets, history = (
        {
            name: torch.randint(0, 1 << 40, (number,), generator=generator)
            for name in ("item", "category")
        }
        for number in (3, 20)
    )
    rows = [
        {
            name: torch.from_numpy(hash_ids(ids.numpy(), {"item": 50, "category": 10}[name]))
            for name, ids in side.items()
        }
        for side in (targets, history)
    ]
    with torch.no_grad():
        found = artefact.ranker(*artefact.inputs(targets, history))
        expected = artefact.ranker(*artefact.inputs_of_rows(*rows))
    assert found.logit_T.equal(expected.logit_T)
    assert found.logit_T.unique().numel() == 3
    assert artefact.rows("attention_target", targets).equal(
        torch.cat(
            [artefact.tables[f"attention_{name}"][rows[0][name]] for name in ("item", "category")],
            dim=1,
        )
    )


def test_an_id_outside_its_table_is_named(exported):
    artefact = load_artefact(exported)
    ids = {"item": torch.tensor([3, -2]), "category": torch.tensor([1, 2])}
    with pytest.raises(IndexError, match=r"item -2 is outside table attention_item, which has \d+"):
        artefact.inputs(ids, ids)


def test_options_that_make_another_model_are_named(run, tmp_path):
    options = ("--model.attention.scale=joint", "--model.init.std=0.2")
    done = dare("export", f"--config={run / 'config.yaml'}", f"--out={tmp_path / 'a'}", *options)
    assert done.code == 0
    assert "model.attention.scale is joint and was two_term in training" in done.err
    assert "the trained weights with other model.attention.scale than in training:" in done.err
    told = json.loads((tmp_path / "a" / "parity.json").read_text())
    assert told["changed"] == {
        "model.attention.scale": {"trained": "two_term", "exported": "joint"}
    }


def test_a_model_with_one_table_for_both_has_one_file(data, tmp_path):
    run = train(data, tmp_path, "--model.preset=twin")
    folder = export(run, tmp_path / "artefact", "--split=none")
    files = {path.name for path in folder.iterdir()}
    assert files == {
        *("shared.safetensors", "ranker.safetensors", "ranker.pt2"),
        *("schema.json", "config.yaml"),
    }


@pytest.mark.parametrize(
    "file", ["attention.safetensors", "ranker.safetensors", "ranker.pt2", "config.yaml"]
)
def test_a_changed_byte_is_found(exported, tmp_path, file):
    folder = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} does not hold what was written"):
        load_artefact(folder)


def test_a_changed_schema_is_found(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    schema = json.loads((folder / "schema.json").read_text())
    (folder / "schema.json").write_text(json.dumps({**schema, "top_k": 4}))
    with pytest.raises(ValueError, match="does not hold what was written"):
        load_artefact(folder)
    (folder / "schema.json").write_text("{}")
    with pytest.raises(ValueError, match="no artefact of `dare export`"):
        load_artefact(folder)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def rewritten(source, target, change):
    """A copy of an archive whose members are changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, change(entry.filename, old.read(entry)))
    return target


def pickled_inputs(name, content):
    if not name.endswith("sample_inputs/model.pt"):
        return content
    stream = io.BytesIO()
    torch.save(Bomb(), stream)
    return stream.getvalue()


def pickled_weights(name, content):
    if not name.endswith("model_weights_config.json"):
        return content
    return content.replace(b'"use_pickle": false', b'"use_pickle": true')


def spoken(old, new):
    def change(name, content):
        if not name.endswith("model.json"):
            return content
        assert old in content
        return content.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (pickled_inputs, "sample_inputs/model.pt is pickled"),
        (pickled_weights, "weight_0 is pickled"),
        (spoken(b"torch.ops.aten.linear.default", b"torch.hub.load"), "its target has"),
        (spoken(b"Integer(1))", b"exec('1'))"), "its expr_str has"),
        (spoken(b"L['inputs'][2].size()", b"exit()"), "its guards_code has"),
        (lambda name, content: content[:-9] if name.endswith("model.json") else content, "archive"),
    ],
)
def test_a_program_that_could_run_code_is_not_loaded(exported, tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    changed = rewritten(exported / "ranker.pt2", tmp_path / "ranker.pt2", change)
    with pytest.raises(ValueError, match=f"ranker.pt2 is not loaded: .*{told}"):
        load_program(changed)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--out is missing; give the folder that is to be made"),
        (["--out=OUT", "--at=step-7"], "--at is step-7; "),
        (["--out=OUT", "--precision=fp8"], "precision"),
        (["--out=OUT", "--requests=-1"], "--requests is -1; it must be 0 or more"),
        (["--out=OUT", "--model.head.evaluation_statistics=batch"], "evaluation_statistics is"),
        (["--out=OUT", "--model.preset=twin"], "this config's model has"),
        (["--out=RUN"], "which is there; remove it, or choose another folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path, options, told):
    places = {"OUT": str(tmp_path / "new" / "artefact"), "RUN": str(run)}
    for name, place in places.items():
        options = [option.replace(name, place) for option in options]
    done = dare("export", f"--config={run / 'config.yaml'}", *options)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("dare export: error: ")
    assert told in line
    assert not (tmp_path / "new").exists()
