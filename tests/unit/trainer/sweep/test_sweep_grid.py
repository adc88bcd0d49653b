"""What a sweep goes over, from its options."""

from pathlib import Path

import pytest

from modules.embedding import UsesConfig
from modules.model_config import RankerConfig
from modules.presets import PRESETS
from tests.unit.trainer.sweep.datasets import leave_schema
from trainer.sweep.grid import (
    TABLE_1,
    Axis,
    Dataset,
    Grid,
    Setting,
    parse_datasets,
    parse_presets,
    parse_seeds,
    parse_vary,
    split_list,
    split_options,
)

ONE_TABLE = UsesConfig(
    **dict.fromkeys(vars(UsesConfig()), "shared"),
)


def test_dotted_options_go_to_the_runs_and_the_others_to_the_sweep():
    own, passed = split_options(
        [
            *("--config", "a.b.yaml", "--loop.epochs", "2", "--seeds=3"),
            *("--optim.sparse.name=adam", "--vary", "model.search.top_k=1,2", "--data", "x"),
        ]
    )
    assert own == [
        *("--config", "a.b.yaml", "--seeds=3"),
        *("--vary", "model.search.top_k=1,2", "--data", "x"),
    ]
    assert passed == ["--loop.epochs", "2", "--optim.sparse.name=adam"]


def test_lists_are_cut_at_commas_outside_brackets():
    assert split_list("[200, 80],[64] ,{a: 1, b: 2},") == ["[200, 80]", "[64]", "{a: 1, b: 2}"]


def test_seeds_are_a_number_or_a_list():
    assert parse_seeds("3") == (1, 2, 3)
    assert parse_seeds("7,") == (7,)
    assert parse_seeds("5,1,2") == (5, 1, 2)


@pytest.mark.parametrize("text", ["0", "", "a", "1;2", "1,a", "-1", "1,1", "01,1"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def test_presets_are_names_or_all_or_those_of_table_1():
    assert parse_presets("twin,dare") == ("twin", "dare")
    assert parse_presets("all") == tuple(PRESETS)
    assert parse_presets("table1") == TABLE_1
    assert set(TABLE_1) <= set(PRESETS)
    for wrong, told in (("tvin", "'tvin' is no preset"), ("twin,twin", "twin twice"), (",", "emp")):
        with pytest.raises(ValueError, match=f"--presets.*{told}"):
            parse_presets(wrong)


def test_what_is_varied_is_called_by_the_end_of_its_name():
    top_k, widths = parse_vary(
        [
            "model.search.top_k=1,5",
            "model.embeddings.attention.item+model.embeddings.attention.category=16,64",
        ]
    )
    assert top_k == Axis("top_k", ("model.search.top_k",), ("1", "5"))
    assert top_k.numbers == [1, 5]
    assert widths.label == "item+category"
    assert widths.options("64", UsesConfig()) == {
        "model.embeddings.attention.item": "64",
        "model.embeddings.attention.category": "64",
    }


def test_fields_whose_names_end_alike_are_called_by_their_whole_names():
    sparse, dense = parse_vary(
        ["optim.sparse.learning_rate=0.1,0.2", "optim.dense.learning_rate=0.1,0.2"]
    )
    assert sparse.label == "optim.sparse.learning_rate"
    assert dense.label == "optim.dense.learning_rate"


def test_values_that_are_no_numbers_have_none():
    (names,) = parse_vary(["optim.sparse.name=adam,rowwise_adagrad"])
    assert names.numbers is None
    assert Axis("x", ("a.b",), ("1", "inf")).numbers is None


@pytest.mark.parametrize(
    "texts",
    [
        ["model.search.top_k"],
        ["top_k=1,2"],
        ["model.search.top_k="],
        ["model.search.top_k=1,1"],
        ["width=16", "width=64"],
    ],
)
def test_other_fields_are_refused(texts):
    with pytest.raises(ValueError, match="--vary"):
        parse_vary(texts)


def names(*kinds):
    return {f"model.embeddings.{k}.{f}" for k in kinds for f in ("item", "category", "position")}


def test_widths_go_together_where_one_table_serves_both():
    attention, whole = parse_vary(["attention_width=16,64", "width=16,64"])
    assert attention.options("64", UsesConfig()) == dict.fromkeys(names("attention"), "64")
    both = dict.fromkeys(names("attention", "representation"), "64")
    assert attention.options("64", ONE_TABLE) == both
    assert whole.options("64", UsesConfig()) == both


@pytest.mark.parametrize("preset", ["dare", "twin_4e"])
def test_presets_with_tables_of_their_own_take_two_widths(preset):
    uses = UsesConfig(
        **{
            name.removeprefix("embeddings.uses."): value
            for name, value in PRESETS[preset].items()
            if name.startswith("embeddings.uses.")
        }
    )
    grid = Grid(
        (preset,),
        (1,),
        parse_vary(["attention_width=16", "representation_width=64"]),
        (Dataset("d", ""),),
    )
    found = grid.field_options(grid.settings()[0], uses)
    assert {name for name, value in found.items() if value == "16"} == names("attention")
    assert {name for name, value in found.items() if value == "64"} == names("representation")


def test_a_field_that_is_set_twice_is_refused():
    grid = Grid(
        ("twin",),
        (1,),
        parse_vary(["attention_width=16", "representation_width=64"]),
        (Dataset("d", ""),),
    )
    with pytest.raises(ValueError, match=r"twin: --vary sets model.embeddings.*twice"):
        grid.field_options(grid.settings()[0], ONE_TABLE)


def test_columns_are_those_of_table_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leave_schema(Path("data/taobao"), train=[], val=[], test=[])
    grid = Grid(
        ("twin", "dare"), (1, 2), parse_vary(["width=16,64"]), parse_datasets("data/taobao,tmall/")
    )
    assert [(*values, dataset) for values, dataset in grid.columns()] == [
        *(("16", "taobao"), ("16", "tmall")),
        *(("64", "taobao"), ("64", "tmall")),
    ]
    assert grid.settings()[4] == Setting("dare", ("16",), "taobao")
    assert grid.run_name(grid.settings()[4], 2) == "dare-width_16-taobao-seed_2"
    options = grid.field_options(grid.settings()[0], UsesConfig())
    assert options["data.train"] == "data/taobao/train"
    assert options["data.test"] == "data/taobao/test"
    assert options["data.schema"] == "data/taobao/schema.json"
    assert options["model.embeddings.attention.item"] == "16"


def test_a_dataset_without_a_test_split_has_no_place_for_one(tmp_path):
    leave_schema(tmp_path, train=[], val=[])
    assert Dataset("d", str(tmp_path)).options() == {
        "data.train": f"{tmp_path}/train",
        "data.val": f"{tmp_path}/val",
        "data.test": "",
        "data.schema": f"{tmp_path}/schema.json",
    }


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("model.preset=dare,eta", "--presets"),
        ("model.search.top_k+model.preset=1,2", "--presets"),
        ("seed=1,2", "--seeds"),
    ],
)
def test_what_has_an_option_of_its_own_is_not_varied(text, own):
    with pytest.raises(ValueError, match=rf"--vary is .* is varied by {own}: give {own} A,B"):
        parse_vary([text])


def test_a_run_is_called_so_that_its_name_is_a_folder():
    grid = Grid(
        ("dare",), (1,), parse_vary(["model.head.hidden=[200, 80],[64]"]), (Dataset("d", ""),)
    )
    first, second = (grid.run_name(setting, 1) for setting in grid.settings())
    assert first == "dare-hidden__200_80_-d-seed_1"
    assert second == "dare-hidden__64_-d-seed_1"


def test_two_datasets_of_one_name_are_refused():
    with pytest.raises(ValueError, match="--data has taobao twice"):
        parse_datasets("a/taobao,b/taobao")


def test_the_fields_of_widths_are_there():
    embeddings = RankerConfig().embeddings
    for name in names("attention", "representation"):
        _, _, kind, feature = name.split(".")
        assert getattr(getattr(embeddings, kind), feature) == 16
