"""What may be drawn beside a run: what was analysed as it is."""

import json
from dataclasses import asdict, replace

import pytest

from trainer.analysis.command import plain
from trainer.analysis.discriminability import DiscriminabilityOptions
from trainer.analysis.options import read_beside
from trainer.analysis.retrieval import RetrievalOptions


def analysed(folder, what, options):
    """A run's folder with what an analysis left, as the command writes it."""
    (folder / "analysis").mkdir(parents=True)
    content = plain({"split": options.split, "options": asdict(options)})
    (folder / "analysis" / f"{what}.json").write_text(json.dumps(content))
    return content


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("retrieval", RetrievalOptions(depth=5, cases=2, out="elsewhere")),
        ("discriminability", DiscriminabilityOptions(clusters=(2, 4))),
    ],
)
def test_what_was_analysed_under_the_same_options_is_drawn_beside(tmp_path, what, options):
    content = analysed(tmp_path / "done", what, options)
    mine = replace(options, beside=(str(tmp_path / "done"),), out="")
    assert read_beside(tmp_path / "mine", mine, what) == {"done": content}


@pytest.mark.parametrize(
    ("what", "its", "mine", "message"),
    [
        (
            "retrieval",
            RetrievalOptions(depth=5, split="val"),
            RetrievalOptions(depth=5),
            r"with --split val, this analysis has test; `.*config\.yaml --depth 5` makes it",
        ),
        (
            "retrieval",
            RetrievalOptions(),
            RetrievalOptions(depth=5, split="val"),
            r"with --split test, .* has val; `.*config\.yaml --split val --depth 5` makes it",
        ),
        (
            "discriminability",
            DiscriminabilityOptions(clusters=(2, 4)),
            DiscriminabilityOptions(clusters=(2, 8)),
            r"--clusters \[2, 4\], this analysis has \[2, 8\]; `.* --clusters '\[2, 8\]'` makes it",
        ),
        (
            "discriminability",
            DiscriminabilityOptions(at="last"),
            DiscriminabilityOptions(),
            r"with --at last, this analysis has best; `dare analyze discriminability --config",
        ),
    ],
)
def test_what_was_analysed_under_other_options_is_refused(tmp_path, what, its, mine, message):
    analysed(tmp_path / "done", what, its)
    with pytest.raises(ValueError, match=message):
        read_beside(tmp_path / "mine", replace(mine, beside=(str(tmp_path / "done"),)), what)


def test_what_was_not_analysed_yet_is_refused_with_the_command_that_does(tmp_path):
    options = RetrievalOptions(depth=5, beside=(str(tmp_path / "done"),))
    with pytest.raises(ValueError, match=r"is not there; `dare .*config\.yaml --depth 5` makes it"):
        read_beside(tmp_path / "mine", options, "retrieval")


def test_an_analysis_that_does_not_say_its_options_is_refused(tmp_path):
    (tmp_path / "done" / "analysis").mkdir(parents=True)
    (tmp_path / "done" / "analysis" / "retrieval.json").write_text('{"curves": {}}')
    options = RetrievalOptions(beside=(str(tmp_path / "done"),))
    with pytest.raises(ValueError, match=r"with --.* unknown, this analysis has"):
        read_beside(tmp_path / "mine", options, "retrieval")
