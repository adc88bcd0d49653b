"""Rows that are compared with peers: the digest sees what differs, and the formats hold them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.bench.rows import Shape, digest, digest_of, draw, paper_rows, write_fuxictr, write_paper

SHAPE = Shape(items=50, categories=7, history_length=6, batch_size=4, batches=3, targets=3, seed=2)


def parts(rows):
    history_NL = rows.history_RL.repeat(3, axis=0)
    item_NL = np.concatenate([history_NL, rows.target_RT.reshape(-1, 1)], axis=1)
    return item_NL, rows.category(item_NL), rows.label_RT.ravel()


def test_a_digest_is_that_of_the_rows_in_any_order_and_in_any_parts():
    rows = draw(SHAPE)
    whole = parts(rows)
    order = np.random.default_rng(0).permutation(12)
    shuffled = [tuple(values[order[part]] for values in whole) for part in (slice(5), slice(5, 12))]
    assert digest(shuffled) == digest_of(rows)


@pytest.mark.parametrize("which", range(3))
def test_a_digest_changes_with_each_number(which):
    rows = draw(SHAPE)
    changed = [values.copy() for values in parts(rows)]
    changed[which].flat[3] += 1
    assert digest([tuple(changed)]) != digest_of(rows)


def test_a_digest_changes_where_a_history_is_the_other_way_round():
    rows = draw(SHAPE)
    item_NL, category_NL, label_N = parts(rows)
    item_NL[:, :-1] = item_NL[:, -2::-1].copy()
    assert digest([(item_NL, category_NL, label_N)]) != digest_of(rows)


def test_files_of_the_papers_code_hold_whole_batches_and_all_rows(tmp_path):
    rows = draw(SHAPE)
    write_paper(tmp_path / "paper", rows, SHAPE.batch_size, batches_a_file=2)
    files = sorted((tmp_path / "paper").iterdir())
    assert [file.name for file in files] == ["train_0001_8.npy", "train_0002_4.npy"]
    found = np.concatenate([np.load(file, allow_pickle=True) for file in files])
    assert found.tolist() == paper_rows(rows, slice(None)).tolist()
    target, label = rows.target_RT[1, 1], rows.label_RT[1, 1]
    assert found[4].tolist() == [
        1,
        target,
        1 + target * 7919 % 7,
        [label, 1 - label],
        rows.history_RL[1].tolist(),
        (1 + rows.history_RL[1] * 7919 % 7).tolist(),
    ]


def test_files_of_fuxictr_hold_a_history_once_and_a_row_a_target(tmp_path):
    rows = draw(SHAPE)
    write_fuxictr(tmp_path / "fuxictr", rows, SHAPE.items)
    read = {
        name: pq.read_table(tmp_path / "fuxictr" / f"{name}.parquet").to_pydict()
        for name in ("train", "user_info", "item_info")
    }
    assert read["user_info"]["full_item_seq"] == rows.history_RL.tolist()
    assert read["train"]["user_index"] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert read["train"]["item_index"] == rows.target_RT.ravel().tolist()
    assert read["item_info"]["cate_id"][:3] == [0, 1 + 7919 % 7, 1 + 2 * 7919 % 7]


def test_batches_that_would_cut_a_request_are_refused():
    with pytest.raises(ValueError, match="make batches a multiple of targets"):
        draw(Shape(items=5, history_length=2, batch_size=4, batches=2, targets=3))
