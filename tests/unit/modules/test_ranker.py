"""Presets, starting values, and which space each use of an embedding reads."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from modules.embedding import USES, EmbeddingsConfig, UsesConfig
from modules.head import HeadConfig, head_input
from modules.model_config import InitConfig, RankerConfig
from modules.pooled import PooledEmbeddings
from modules.presets import PRESETS, check_preset, preset_fields
from modules.ranker import Ranker
from modules.widths import WidthsConfig
from tests.small import CPU, DARE, ROWS, SHARED, SIDE, SIDE_ROWS, TWIN
from trainer.arguments import parse_config, parse_run, run_parser

A, B = ("a", 4), ("b", 8)


def make_ranker(embeddings: EmbeddingsConfig, *, blanket: bool = False) -> Ranker:
    torch.manual_seed(1)
    config = RankerConfig(embeddings=embeddings, init=InitConfig(released_blanket=blanket))
    return Ranker(config, rows=ROWS | SIDE_ROWS, history_length=9, device=CPU)


def table_names(ranker: Ranker) -> set[str]:
    return {
        table.name
        for collection in ranker.embeddings.collections.values()
        for table in (
            collection.embedding_bag_configs()
            if isinstance(collection, PooledEmbeddings)
            else collection.embedding_configs()
        )
    }


def test_dare_has_two_tables_a_feature_and_twin_one() -> None:
    assert table_names(make_ranker(DARE)) == {
        "attention_item",
        "attention_category",
        "representation_item",
        "representation_category",
    }
    assert table_names(make_ranker(TWIN)) == {"shared_item", "shared_category"}
    assert len(make_ranker(DARE).interaction.positions.tables) == 2
    assert len(make_ranker(TWIN).interaction.positions.tables) == 1


def test_four_spaces_read_one_side_each() -> None:
    uses = UsesConfig(
        attention_target="a",
        attention_history="b",
        representation_target="c",
        representation_history="d",
    )
    config = EmbeddingsConfig(uses=uses)
    assert {space: config.readers(space) for space in "abcd"} == {
        "a": ["target"],
        "b": ["history"],
        "c": ["target"],
        "d": ["history"],
    }
    assert len(table_names(make_ranker(config))) == 8


def test_every_feature_with_a_width_has_a_table_in_each_space_that_reads_it() -> None:
    assert table_names(make_ranker(SIDE["dare"])) == table_names(make_ranker(DARE)) | {
        *("attention_interval", "attention_behaviour_type", "attention_scenario"),
        *("representation_interval", "representation_behaviour_type"),
    }
    widths = SIDE["dare"].attention
    assert list(widths.tables) == ["item", "category", "interval", "behaviour_type", "scenario"]
    assert sum(widths.tables.values()) == 8 + 4 + 4 + 4 + 8


def test_features_lie_in_one_order_whatever_that_of_the_config() -> None:
    left, right = (WidthsConfig(features=dict(f)) for f in ((A, B), (B, A)))
    assert list(left.tables.items()) == list(right.tables.items())
    assert left.with_width("a", 8).tables == {**left.tables, "a": 8}
    assert left.with_width("item", 8).tables == {**left.tables, "item": 8}


def test_features_are_given_by_name_on_the_command_line() -> None:
    model = parse(
        "--model.embeddings.attention.interval=4",
        "--model.embeddings.attention.features={a: 4, b: 8}",
        "--model.embeddings.representation.features.a=12",
    )
    assert model.embeddings.attention == WidthsConfig(interval=4, features=dict((A, B)))
    assert model.embeddings.representation == WidthsConfig(features={"a": 12})


def parse(*arguments: str) -> RankerConfig:
    return parse_config(arguments)[0].model


def test_a_config_does_not_depend_on_those_that_were_parsed_before():
    presets = "twin_kdd23", "dare", "sdim", "mirrn"
    given = {preset: [f"--model.preset={preset}", "--seed=3"] for preset in presets}
    fresh = {preset: parse_run(run_parser("", ""), given[preset])[:2] for preset in given}
    for before, preset in itertools.permutations(presets, 2):
        parse_config(given[before])
        assert parse_config(given[preset]) == fresh[preset]


def test_the_default_is_dare_and_twin_shares_all_four_uses() -> None:
    assert parse().embeddings.uses == UsesConfig()
    assert parse("--model.preset=twin").embeddings.uses == SHARED
    assert parse("--model.preset=dare").embeddings.uses == UsesConfig()


def test_a_given_field_wins_over_the_preset() -> None:
    uses = parse(
        "--model.preset=twin", "--model.embeddings.uses.attention_target=mine"
    ).embeddings.uses
    assert uses.attention_target == "mine"
    assert uses.attention_history == "shared"
    first = parse("--model.embeddings.uses.attention_target=mine", "--model.preset=twin")
    assert first.embeddings.uses == uses


@pytest.mark.parametrize(("held", "asked"), [("dare", "twin"), ("twin", "dare")])
def test_a_preset_given_after_a_runs_own_config_replaces_the_files(tmp_path, held, asked) -> None:
    """Such a file holds every field, those of its preset too."""
    given = ["--model.search.top_k=7", f"--model.preset={held}"]
    _, text = parse_config(given)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    wanted = {"dare": UsesConfig(), "twin": SHARED}
    for config in (["--config", str(file)], [f"--config={file}"]):
        assert parse(*config).embeddings.uses == wanted[held]
        assert parse(*config, f"--model.preset={held}").embeddings.uses == wanted[held]
        model = parse(*config, f"--model.preset={asked}")
        assert (model.preset, model.embeddings.uses) == (asked, wanted[asked])
        assert model.search.top_k == 7
        mine = parse(
            *config, "--model.embeddings.uses.attention_target=a", f"--model.preset={asked}"
        )
        assert mine.embeddings.uses == replace(wanted[asked], attention_target="a")


def test_a_variant_in_a_file_stays_with_its_preset(tmp_path) -> None:
    file = tmp_path / "variant.yaml"
    file.write_text("model: {preset: twin, embeddings: {uses: {attention_target: mine}}}")
    variant = replace(SHARED, attention_target="mine")
    assert parse(f"--config={file}").embeddings.uses == variant
    assert parse(f"--config={file}", "--model.preset=twin").embeddings.uses == variant


def test_no_model_goes_by_the_name_of_another() -> None:
    one_table = EmbeddingsConfig(uses=UsesConfig(**dict.fromkeys(USES, "any")))
    third = EmbeddingsConfig(uses=replace(UsesConfig(), attention_target="third"))
    check_preset(RankerConfig())
    check_preset(RankerConfig(embeddings=third, head=HeadConfig(inputs="target_history")))
    check_preset(RankerConfig(preset="twin", embeddings=one_table))
    with pytest.raises(ValueError, match=r"model\.preset is dare, but .* are those of twin"):
        check_preset(RankerConfig(embeddings=one_table))
    with pytest.raises(ValueError, match=r"model\.preset is twin, but .* are those of dare"):
        check_preset(RankerConfig(preset="twin"))
    with pytest.raises(
        ValueError,
        match=r"model\.preset is dare, but model\.head\.inputs is that of dare_no_tr; set",
    ):
        check_preset(RankerConfig(head=HeadConfig(inputs="target_history")))


def test_an_unknown_preset_is_an_error_that_names_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"model\.preset is 'sim'; presets are dare, twin, dare_no_tr"
    ):
        preset_fields("sim")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset: str) -> None:
    config = parse(f"--model.preset={preset}")
    ranker = Ranker(config, rows=ROWS, history_length=9, device=CPU)
    assert {config.embeddings.space("attention_target")} <= set(config.embeddings.spaces())
    assert len(table_names(ranker)) == 2 * len(config.embeddings.spaces())


def test_starting_values_are_small_weights_and_neutral_norms() -> None:
    interaction = make_ranker(DARE).interaction
    linear = interaction.head.layers[0].weight
    assert linear.std().item() == pytest.approx(0.01, rel=0.05)
    assert abs(linear.mean().item()) < 1e-3
    for table in interaction.positions.tables.values():
        assert table.std().item() == pytest.approx(0.01, rel=0.4)
        assert table.ne(0).all()
    assert interaction.head.norm.weight.eq(1).all()
    assert interaction.head.norm.bias.eq(0).all()
    assert interaction.head.layers[1].weight.tolist() == pytest.approx([0.1])


def test_the_released_blanket_draws_norms_and_slopes_too() -> None:
    interaction = make_ranker(DARE, blanket=True).interaction
    gain = interaction.head.norm.weight
    assert 0 < gain.abs().max().item() < 0.06
    assert interaction.head.layers[1].weight.abs().item() < 0.06
    assert interaction.head.norm.bias.eq(0).all()
    sane = make_ranker(DARE).interaction.head.layers[0].bias
    assert interaction.head.layers[0].bias.abs().max() <= sane.abs().max() * 2


def test_a_shared_space_of_two_widths_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"space shared is shared .* widths differ"):
        EmbeddingsConfig(uses=SHARED, attention=WidthsConfig(item=8))


def test_a_space_name_that_is_no_name_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"uses\.attention_target is 'a b'"):
        EmbeddingsConfig(uses=UsesConfig(attention_target="a b"))


def test_two_spaces_with_a_table_of_one_name_are_an_error() -> None:
    uses = UsesConfig(attention_target="a", attention_history="a_b")
    with pytest.raises(ValueError, match=r"two spaces of model\.embeddings\.uses .* table a_b_c;"):
        EmbeddingsConfig(uses=uses, attention=WidthsConfig(features={"c": 4, "b_c": 4}))


@pytest.mark.parametrize("name", ["item", "category", "position", "interval", "two words", ""])
def test_a_feature_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ValueError, match=f"features of model.embeddings has '{name}'"):
        WidthsConfig(features={name: 4})


@pytest.mark.parametrize("width", [0, 2, -4])
def test_widths_of_further_tables_are_multiples_of_four_too(width: int) -> None:
    with pytest.raises(ValueError, match=f"page width is {width}; .*multiple of 4.* or left out"):
        WidthsConfig(features={"page": width})
    if width:
        with pytest.raises(ValueError, match=f"interval width is {width}; .*multiple of 4"):
            WidthsConfig(interval=width)


@pytest.mark.parametrize("width", [0, 2, 6, -4])
def test_table_widths_are_multiples_of_four(width: int) -> None:
    with pytest.raises(ValueError, match=f"item width is {width}; .*multiple of 4"):
        WidthsConfig(item=width)


def test_a_negative_position_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="position width is -1"):
        WidthsConfig(position=-1)


def test_head_settings_that_make_no_network_are_errors() -> None:
    with pytest.raises(ValueError, match=r"model\.head\.hidden is \(8, 0\)"):
        HeadConfig(hidden=(8, 0))
    with pytest.raises(ValueError, match=r"auxiliary_weight is -1"):
        HeadConfig(auxiliary_weight=-1)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("target_history_product", [2, 3, 5, 7, 10, 21]),
        ("target_product", [2, 3, 10, 21]),
        ("target_history", [2, 3, 5, 7]),
        ("product", [10, 21]),
    ],
)
def test_the_head_sees_target_history_and_product(inputs, expected) -> None:
    seen = head_input(torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]]), inputs)
    assert seen.tolist() == [expected]
