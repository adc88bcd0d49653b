"""The synthetic log: what it promises about its labels, its oracle and its histories."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from pipelines.columns import check_columns
from pipelines.oracle import auc
from pipelines.planted import load_planted
from pipelines.schema import DatasetSchema
from pipelines.synthetic import prepare_synthetic

SPLITS = ("train", "val", "test")
TINY = {"history_length": 2, "requests": 1, "targets": 1}
SMALL = {"items": 40, "categories": 12, "history_length": 30, "requests": 2, "targets": 3}


def rows(folder: Path, split: str) -> list[dict]:
    return [row for file in sorted((folder / split).glob("*.parquet")) for row in read(file)]


def read(file: Path) -> list[dict]:
    return pq.read_table(file).to_pylist()


def rows_of(*columns: list) -> tuple:
    return tuple(zip(*columns, strict=True))


def requests(folder: Path, split: str) -> list[tuple]:
    """Every request of a split with its whole history, whatever the layout."""
    found = []
    for row in rows(folder, split):
        if "requests" not in row:
            history = rows_of(
                row["history_item"], row["history_category"], row["history_timestamp"]
            )
            targets = rows_of(row["item"], row["category"], row["label"])
            found.append((row["user_id"], history, row["timestamp"], targets))
        for request in row.get("requests", []):
            life = rows_of(row["item"], row["category"], row["timestamp"])
            targets = rows_of(request["item"], request["category"], request["label"])
            end = request["history_end"]
            found.append((row["user_id"], life[:end], request["timestamp"], targets))
    return found


def slow_logits(folder: Path, split: str) -> tuple[list[float], list[float]]:
    """Labels and planted log odds, one behaviour at a time from the formula and the files."""
    with np.load(folder / "planted.npz", allow_pickle=False) as raw:
        planted = {name: raw[name].tolist() for name in raw.files}
    a, m = planted["attention"], planted["meaning"]
    labels, logits = [], []
    for _, history, _, targets in requests(folder, split):
        for _, target, label in targets:
            weights, votes = [], []
            for position, (_, category, _) in enumerate(reversed(history), start=1):
                similar = sum(x * y for x, y in zip(a[target], a[category], strict=True))
                score = planted["sharpness"] * similar + planted["recency"][position]
                weights.append(math.exp(score))
                votes.append(sum(x * y for x, y in zip(m[target], m[category], strict=True)))
            total = math.fsum(weights)
            vote = math.fsum(w * v for w, v in zip(weights, votes, strict=True)) / (total or 1.0)
            labels.append(label)
            logits.append(planted["gain"] * vote + planted["bias"])
    return labels, logits


def checksums(schema: DatasetSchema) -> list[str]:
    return [file.sha256 for split in SPLITS for file in schema.splits[split].files]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetSchema]:
    folder = tmp_path_factory.mktemp("small")
    return folder, prepare_synthetic(out=str(folder), users=60, short_histories=0.5, **SMALL)


@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_is_what_the_formula_gives_on_the_files(
    small: tuple[Path, DatasetSchema], split: str
) -> None:
    folder, schema = small
    labels, logits = slow_logits(folder, split)
    # Equal cases (empty histories, a category shown twice) are ties, not last-bit winners.
    score = np.round(logits, 9)
    assert schema.oracle[split] == pytest.approx(roc_auc_score(labels, score), abs=1e-9)
    wanted = log_loss(labels, 1 / (1 + np.exp(-score)))
    assert schema.oracle[f"{split}_logloss"] == pytest.approx(wanted, abs=1e-9)
    assert json.loads((folder / "schema.json").read_text())["oracle"] == schema.oracle


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_the_best_from_the_newest_counts_on_every_past_by_its_chance(tmp_path: Path) -> None:
    """Lives of two: of the older behaviour only how popular its category is can be known."""
    options = {**SMALL, "history_length": 2, "targets": 8, "recency": 0.3, "newest": "1"}
    # Sessions of one and a thousand interests: what is seen says nothing about what is not.
    options |= {"session_length": 1, "interests": 1000}
    schema = prepare_synthetic(out=str(tmp_path), users=400, short_histories=0.2, **options)
    with np.load(tmp_path / "planted.npz", allow_pickle=False) as raw:
        planted = {name: raw[name] for name in raw.files}
    similar = planted["attention"] @ planted["attention"].T
    votes = planted["meaning"] @ planted["meaning"].T
    popular = {category: category**-0.5 for category in range(1, 13)}
    labels, blind, expected = [], [], []
    for _, history, _, targets in requests(tmp_path, "test"):
        newest = [category for _, category, _ in history[-1:]]
        for _, target, label in targets:

            def chance(life: list[int], target: int = target) -> float:
                weights = [
                    math.exp(planted["sharpness"] * similar[target, c] - 0.3 * math.log(p))
                    for p, c in enumerate(life, start=1)
                ]
                vote = sum(w * votes[target, c] for w, c in zip(weights, life, strict=True))
                evidence = vote / (sum(weights) or 1.0)
                return sigmoid(planted["gain"] * evidence + planted["bias"])

            pasts = popular if len(history) == 2 else {}
            over_all = sum(share * chance([*newest, c]) for c, share in pasts.items())
            expected.append(over_all / sum(popular.values()) if pasts else chance(newest))
            blind.append(chance(newest))
            labels.append(label)
    best = roc_auc_score(labels, np.round(expected, 9))
    assert schema.oracle["test_newest_1"] == pytest.approx(best, abs=0.004)
    # Who takes what is not seen for nothing ranks worse than that, and who sees it, better.
    assert roc_auc_score(labels, np.round(blind, 9)) < best - 0.01
    assert schema.oracle["test"] > best + 0.01


def test_the_best_from_the_newest_rises_with_them_to_that_of_whole_lives(tmp_path: Path) -> None:
    options = {**SMALL, "recency": 0.2, "newest": "30, 3,10,1000"}
    oracle = prepare_synthetic(out=str(tmp_path), users=400, **options).oracle
    assert oracle["test_newest_3"] < oracle["test_newest_10"] < oracle["test"]
    assert oracle["test_newest_30"] == oracle["test_newest_1000"] == oracle["test"]


def test_asking_for_the_best_from_the_newest_changes_no_byte_of_the_log(
    small: tuple[Path, DatasetSchema], tmp_path: Path
) -> None:
    folder, schema = small
    asked = prepare_synthetic(
        out=str(tmp_path), users=60, short_histories=0.5, newest="5", stray=0.1, **SMALL
    )
    assert checksums(asked) == checksums(schema)
    assert (tmp_path / "planted.npz").read_bytes() == (folder / "planted.npz").read_bytes()
    assert asked.oracle.pop("test_newest_5") > 0.5
    assert asked.oracle == schema.oracle


@pytest.mark.parametrize("stray", [0.0, 0.3])
def test_strays_are_of_any_category_by_popularity(tmp_path: Path, stray: float) -> None:
    # One interest at a time, in a session that never ends.
    options = {"history_length": 60, "categories": 40, "interests": 1, "session_length": 1e9}
    prepare_synthetic(out=str(tmp_path), users=300, stray=stray, short_histories=0.0, **options)
    lives = [row["category"] for row in rows(tmp_path, "test")]
    elsewhere = sum(60 - max(map(life.count, life)) for life in lives) / (60 * 300)
    # The chance that a stray hits the interest: the sum of squared shares, both being c^-0.5.
    hit = sum(1 / c for c in range(1, 41)) / sum(c**-0.5 for c in range(1, 41)) ** 2
    assert elsewhere == pytest.approx(stray * (1 - hit), abs=0.015)


def test_auc_counts_a_tie_half() -> None:
    # Pairs (click, no click): 2 over 1 is right, 2 against 2 is a tie.
    assert auc(np.array([True, False, False]), np.array([2.0, 1.0, 2.0])) == 0.75
    assert math.isnan(auc(np.array([True, True]), np.array([1.0, 2.0])))


def test_clicks_happen_as_often_as_planted(tmp_path: Path) -> None:
    schema = prepare_synthetic(
        out=str(tmp_path), users=1000, history_length=20, categories=20, requests=3
    )
    planted = load_planted(str(tmp_path / "planted.npz"))
    labels, chances = [], []
    for row in rows(tmp_path, "train"):
        life = np.array([row["category"]], dtype=np.int64)
        end = np.array([[request["history_end"] for request in row["requests"]]])
        target = np.array([[request["category"] for request in row["requests"]]])
        labels += [label for request in row["requests"] for label in request["label"]]
        logit = planted.logit(planted.evidence(target, life, end))
        chances += (1 / (1 + np.exp(-logit))).ravel().tolist()
    assert len(labels) == schema.splits["train"].targets == 1000 * 3 * 4
    deciles = np.array_split(np.argsort(chances), 10)
    for part in deciles:
        chance, clicked = np.array(chances)[part], np.array(labels)[part]
        error = math.sqrt((chance * (1 - chance)).sum()) / len(part)
        assert clicked.mean() == pytest.approx(chance.mean(), abs=4 * error)
    # The deciles must differ, or calibration would say nothing.
    assert np.array(chances)[deciles[9]].mean() - np.array(chances)[deciles[0]].mean() > 0.7


@pytest.mark.parametrize(("agreement", "low", "high"), [(0.0, -0.1, 0.1), (0.5, 0.2, 0.8)])
def test_agreement_sets_how_far_attention_and_meaning_share_a_structure(
    tmp_path: Path, agreement: float, low: float, high: float
) -> None:
    prepare_synthetic(out=str(tmp_path), users=2, agreement=agreement, **TINY)
    planted = load_planted(str(tmp_path / "planted.npz"))
    pairs = np.triu_indices(len(planted.meaning), 1)
    matters = (planted.attention @ planted.attention.T)[pairs]
    means = (planted.meaning @ planted.meaning.T)[pairs]
    assert low < np.corrcoef(matters, means)[0, 1] < high


def test_at_agreement_1_one_table_is_enough(tmp_path: Path) -> None:
    prepare_synthetic(out=str(tmp_path), users=2, agreement=1.0, **TINY)
    planted = load_planted(str(tmp_path / "planted.npz"))
    np.testing.assert_allclose(planted.attention, planted.meaning, rtol=0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(planted.meaning, axis=1), 1.0)


def test_histories_point_only_to_the_past(small: tuple[Path, DatasetSchema]) -> None:
    folder, _ = small
    for split in SPLITS:
        for row in rows(folder, split):
            assert all(np.diff(row["timestamp"]) > 0)
            for request in row["requests"]:
                end, life = request["history_end"], row["timestamp"]
                assert end <= len(life)
                assert all(moment < request["timestamp"] for moment in life[:end])
                assert all(moment > request["timestamp"] for moment in life[end:])


def test_train_comes_before_val_and_val_before_test(small: tuple[Path, DatasetSchema]) -> None:
    folder, _ = small
    moments = [
        {row["user_id"]: [r["timestamp"] for r in row["requests"]] for row in rows(folder, split)}
        for split in SPLITS
    ]
    assert moments[0].keys() == moments[1].keys() == moments[2].keys() == set(range(1, 61))
    for user in moments[0]:
        assert max(moments[0][user]) <= min(moments[1][user]) <= min(moments[2][user])


def test_short_histories_include_the_empty_one_and_one_behaviour(
    small: tuple[Path, DatasetSchema], tmp_path: Path
) -> None:
    folder, schema = small
    lengths = [len(history) for _, history, _, _ in requests(folder, "test")]
    # 60 users, every other one short: lives of 0 .. 20, then 0 .. 8 again, 30 have all 30.
    assert sorted(lengths) == sorted([*range(21), *range(9), *[30] * 30])
    assert schema.splits["test"].history_length["max"] == SMALL["history_length"]
    prepare_synthetic(out=str(tmp_path), users=60, short_histories=0.0, **SMALL)
    assert {len(history) for _, history, _, _ in requests(tmp_path, "test")} == {30}


def test_the_seed_alone_decides_every_byte(
    small: tuple[Path, DatasetSchema], tmp_path: Path
) -> None:
    folder, schema = small
    options = {"users": 60, "short_histories": 0.5, **SMALL}
    again = prepare_synthetic(out=str(tmp_path / "again"), **options)
    other = prepare_synthetic(out=str(tmp_path / "other"), seed=2, **options)
    assert again == schema
    assert (tmp_path / "again/planted.npz").read_bytes() == (folder / "planted.npz").read_bytes()
    assert not set(checksums(other)) & set(checksums(schema))


def test_both_layouts_hold_the_same_requests(
    small: tuple[Path, DatasetSchema], tmp_path: Path
) -> None:
    folder, schema = small
    other = prepare_synthetic(
        out=str(tmp_path), users=60, short_histories=0.5, layout="request", **SMALL
    )
    assert other.oracle == schema.oracle
    for split in SPLITS:
        assert requests(tmp_path, split) == requests(folder, split)
        for file in other.splits[split].files:
            check_columns(pq.read_schema(tmp_path / file.path), "request", file.path)


def test_an_item_keeps_its_category_and_ids_fit_their_tables(
    small: tuple[Path, DatasetSchema],
) -> None:
    folder, schema = small
    pairs = set()
    for split in SPLITS:
        for _, history, _, target in requests(folder, split):
            pairs |= {(item, category) for item, category, _ in (*history, *target)}
    items, categories = {item for item, _ in pairs}, {category for _, category in pairs}
    assert len(pairs) == len(items) == schema.tables["item"].distinct
    assert len(categories) == schema.tables["category"].distinct
    assert (schema.tables["item"].rows, schema.tables["category"].rows) == (41, 13)
    assert min(items) >= 1
    assert min(categories) >= 1
    assert max(items) <= 40
    assert max(categories) <= 12


def test_a_life_of_20000_behaviours_works(tmp_path: Path) -> None:
    schema = prepare_synthetic(
        out=str(tmp_path), users=30, history_length=20_000, requests=1, targets=2
    )
    assert schema.splits["test"].history_length["max"] == 20_000
    # 13 users a chunk: the rows of all three chunks are there.
    assert [row["user_id"] for row in rows(tmp_path, "test")] == list(range(1, 31))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("agreement", 1.2),
        ("agreement", float("nan")),
        ("users", 0),
        ("items", 5),
        ("categories", 1),
        ("history_length", 0),
        ("requests", 0),
        ("targets", -1),
        ("short_histories", 1.5),
        ("session_length", 0.5),
        ("sharpness", -1.0),
        ("stray", 1.5),
        ("newest", "0"),
        ("newest", "200,"),
        ("newest", "200;1000"),
        ("newest", "200 1000"),
        ("newest", "-5"),
        ("seed", -1),
        ("layout", "column"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, option: str, value: float) -> None:
    options = {"users": 4, **SMALL, option: value}
    with pytest.raises(ValueError, match=f"--{option} is {value}"):
        prepare_synthetic(out=str(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def test_a_wrong_number_of_newest_is_told_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--newest is 1e3; give numbers of behaviours, such as"):
        prepare_synthetic(out=str(tmp_path), users=4, newest="1e3", **SMALL)


def test_a_dataset_is_never_overwritten(small: tuple[Path, DatasetSchema]) -> None:
    with pytest.raises(ValueError, match="already holds a dataset"):
        prepare_synthetic(out=str(small[0]), users=4, **SMALL)


def test_a_missing_planted_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"planted\.npz is not there"):
        load_planted(str(tmp_path / "planted.npz"))


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_planted_file_that_is_cut_off_is_damaged(
    small: tuple[Path, DatasetSchema], tmp_path: Path, left: float
) -> None:
    whole = (small[0] / "planted.npz").read_bytes()
    file = tmp_path / "planted.npz"
    for damaged in (whole[: int(left * len(whole))], whole.replace(b"attention", b"attent\xffon")):
        file.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"planted\.npz is damaged: .*prepare the dataset again"
        ):
            load_planted(str(file))


def test_a_changed_bit_at_the_end_of_a_planted_file_is_damage_or_changes_nothing(
    small: tuple[Path, DatasetSchema], tmp_path: Path
) -> None:
    """The last 22 bytes say where in the file the list of its arrays is."""
    whole = (small[0] / "planted.npz").read_bytes()
    file, recency = tmp_path / "planted.npz", load_planted(str(small[0] / "planted.npz")).recency
    told = []
    for bit in range(22 * 8):
        content = bytearray(whole)
        content[bit // 8 - 22] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            assert load_planted(str(file)).recency.tolist() == recency.tolist()
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 22
    assert {text.partition(" is damaged: ")[0] for text in told} == {str(file)}
