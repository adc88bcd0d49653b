"""The figure of attention where there are more categories than labels."""

import numpy as np
import pytest

from trainer.analysis.attention_figure import draw_attention


@pytest.mark.parametrize(("categories", "stride"), [(5, 1), (21, 2)])
def test_the_label_of_the_targets_own_category_is_bold_where_there_is_one(categories, stride):
    shown = min(categories, 12)
    content = {
        "options": {"pictured": shown},
        "categories": np.arange(101, 101 + categories),
        "train_targets": np.full(categories, 7),
        "correlations": {},
    }
    maps = {"attention": np.random.default_rng(1).random((categories, categories, 2))}
    figure = draw_attention(content, maps, "a run")
    for row, axes in enumerate(figure.axes[:shown]):
        labels = axes.get_yticklabels()
        assert len(labels) == -(-categories // stride)
        bold = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
        assert bold == ([str(101 + row)] if row % stride == 0 else [])
