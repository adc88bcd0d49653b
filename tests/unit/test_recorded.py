"""What survives of what ranks have recorded, and how fast they grow, counted by hand."""

import json
from collections import Counter

import pytest

from tests.recorded import starts_of, surviving, targets_of
from tests.soak_checks import WARM_UP_STEPS, growth_per_1000_steps
from tests.split_files import Request, User, write_users


def _write(folder, *, began, job, rank, first, steps, world=2, held=lambda _: 0, cut=""):
    head = {"start": began, "job": job, "rank": rank, "world": world, "from": first}
    lines = [
        {"step": step, "targets": targets, "rss": held(step)} for step, targets in steps.items()
    ]
    text = "".join(json.dumps(line) + "\n" for line in (head, *lines))
    (folder / f"{began}-{rank}.jsonl").write_text(text + cut)


def test_what_a_later_start_does_again_counts_once(tmp_path):
    """Steps 1 to 4 by two ranks; gone on with from step 2 by one, and from its step 4 by two."""
    rank0 = {1: [(1, 10)], 2: [(2, 20)], 3: [(3, 30)], 4: [(4, 40)]}
    rank1 = {1: [(5, 50)], 2: [(5, 50)], 3: [(6, 60)]}
    _write(tmp_path, began=1, job="a", rank=0, first=0, steps=rank0)
    _write(tmp_path, began=1, job="a", rank=1, first=0, steps=rank1, cut='{"step": 4, "targ')
    _write(tmp_path, began=2, job="b", rank=0, first=2, steps={3: [(3, 30)], 4: [(6, 60)]}, world=1)
    _write(tmp_path, began=3, job="c", rank=0, first=4, steps={5: [(4, 40)]})
    _write(tmp_path, began=3, job="c", rank=1, first=4, steps={5: []})
    starts = starts_of(tmp_path)
    assert [(start.world, start.first, start.last) for start in starts] == [
        (2, 0, 4),
        (1, 2, 4),
        (2, 4, 5),
    ]
    once = {(1, 10), (2, 20), (3, 30), (6, 60), (4, 40)}
    assert surviving(starts) == Counter({**dict.fromkeys(once, 1), (5, 50): 2})


def test_a_start_that_begins_anew_undoes_all(tmp_path):
    _write(tmp_path, began=1, job="a", rank=0, first=0, steps={1: [(1, 10)]})
    _write(tmp_path, began=2, job="b", rank=0, first=0, steps={1: [(2, 20)]})
    assert surviving(starts_of(tmp_path)) == Counter({(2, 20): 1})


def test_targets_are_counted_from_the_files(tmp_path):
    asked = Request(1, [4, 4], [2, 2], [1.0, 0.0])
    users = [User(7, [1], [1], [asked]), User(8, [], [], [])]
    write_users(tmp_path / "a.parquet", users)
    assert targets_of(tmp_path) == Counter({(7, 4): 2})


def test_memory_grows_by_the_slope_within_processes(tmp_path):
    """Two levels, 3 and 3 bytes a step after the warm-up, whatever happens before it."""
    steps = {step: [] for step in range(1, WARM_UP_STEPS + 101)}
    for rank, level in ((0, 1000), (1, 900_000)):
        _write(
            tmp_path,
            began=1,
            job="a",
            rank=rank,
            first=0,
            steps=steps,
            held=lambda step, level=level: level + (3 * step if step > WARM_UP_STEPS else -step),
        )
    growth, taken = growth_per_1000_steps(starts_of(tmp_path))
    assert growth == pytest.approx(3000)
    assert taken == 200
