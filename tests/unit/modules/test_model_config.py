"""Models that cannot be are refused before anything is made, in one line a mistake."""

from __future__ import annotations

import pytest

from modules.presets import PRESETS
from tests.commands import dare
from trainer.arguments import parse_config


def parse(*options: str):
    given = [f"--model.{option}" for option in options]
    return parse_config(given)[0].model


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("preset=twin_4e", "attention.scorer=multi_head"), r"pooled, which attention multi_head"),
        (("projection.kind=linear",), r"pooled, which model\.projection cannot use"),
        (
            ("preset=dare", "search.by=hamming", "embeddings.attention_lookup=scored"),
            r"attention_lookup is scored, .* needs attention\.scorer dot, search\.by attention or",
        ),
        (("preset=twin_kdd23", "attention.heads=5"), r"heads is 5, attention_target is 32 wide"),
        (("preset=sim_soft", "head.auxiliary_weight=0"), r"search\.by is own, whose matrices only"),
        (
            ("preset=twin_proj_concat", "projection.kind=mlp"),
            r"place is joined with kind mlp, .* set place to features",
        ),
        (("preset=twin_proj_concat", "attention.scorer=mlp"), r"joined, attention\.scorer mlp"),
        (("projection.features=[]",), r"features is \[\]; name at least one, each once"),
        (("preset=dare", "embeddings.gradients=balanced"), r"balanced, but the uses read 2 spaces"),
        (("search.cluster_size=-1",), r"model\.search\.cluster_size is -1; it must be at least 0"),
        (("preset=sdim", "search.cluster_size=3"), r"cluster_size is 3, attention\.scorer buckets"),
        (("preset=mirrn", "search.cluster_size=3"), r"is 3, attention\.scorer interests, whose"),
        (("preset=mirrn", "search.by=none"), r"is interests, search\.by none; .* to hamming"),
        (("preset=mirrn", "attention.heads=5"), r"heads is 5, representation_target is 48 wide"),
        (
            ("preset=dare", "attention.scorer=interests", "search.by=hamming"),
            r"pooled, which attention interests cannot use; set it to unpooled",
        ),
        (("attention.recent=0",), r"model\.attention\.recent is 0; it must be at least 1"),
        (("attention.hash_bits=0",), r"model\.attention\.hash_bits is 0; it must be at least 1"),
        (("projection.width=-4",), r"model\.projection\.width is -4"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_is_refused(options, told) -> None:
    with pytest.raises(ValueError, match=told):
        parse(*options)


def test_the_command_line_tells_it_without_a_traceback() -> None:
    done = dare("train", "--model.preset=twin_kdd23", "--model.attention.heads=5")
    assert done.code == 2
    assert "heads must share it evenly" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_other_widths(preset: str) -> None:
    widths = "{item: 32, category: 8, position: 8}"
    model = parse(
        f"preset={preset}", f"embeddings.attention={widths}", f"embeddings.representation={widths}"
    )
    projected = 32 if preset == "larger_embedding" else 40
    assert model.widths("attention_target")[0] == projected
