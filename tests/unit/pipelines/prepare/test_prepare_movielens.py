import csv
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.prepare.movielens import prepare_movielens
from pipelines.prepare.protocol import Protocol

SAMPLE = Path(__file__).parents[4] / "../shared/data/movielens"
MOVIES = 'movieId,title,genres\n10,"Comma, The (1999)",Drama|War\n' + "".join(
    f"{movie},M{movie},Comedy\n" for movie in range(11, 19)
)
SMALL = Protocol(min_clicks=4, last_offset=3, num_negatives=1)


def _prepare(path, ratings, **options):
    (path / "movies.csv").write_text(MOVIES)
    (path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    out = str(path / "out")
    return prepare_movielens(raw=str(path), out=out, protocol=SMALL, **options), out


RATINGS = "".join(f"1,{10 + n},4.0,{100 - n}\n" for n in range(4)) + "".join(
    f"2,{14 + n},5.0,{100 + n}\n" for n in range(4)
)


def test_high_ratings_are_clicks_and_the_first_genre_is_the_category(tmp_path):
    rows = "3,18,3.5,1\n3,99,5.0,1\n3,18,good,1\n"
    schema, out = _prepare(tmp_path, RATINGS + rows)
    row = pq.read_table(f"{out}/test").to_pylist()[0]
    # The newest rating of user 1 is of movie 10, the only one of category 1 (Drama).
    assert row["item"] == [4, 3, 2]
    assert row["category"] == [2, 2, 2]
    assert row["requests"][0]["category"] == [1, 2]
    assert schema.counts["dropped"] == {
        "damaged": 1,
        "movie without genres in movies.csv": 1,
        "rating below 4": 1,
        "user with too few clicks": 0,
        "user without a possible negative": 0,
    }


def test_the_threshold_and_the_kind_of_category_are_options(tmp_path):
    schema, out = _prepare(
        tmp_path, RATINGS + "3,18,3.5,1\n", min_rating=3.5, category="all_genres"
    )
    assert "rating below 3.5" not in schema.counts["dropped"]
    names = pq.read_table(f"{out}/ids/category.parquet")["raw"].to_pylist()
    assert names == ["Drama|War", "Comedy"]


def test_a_folder_without_movies_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"--raw is the folder with ratings\.csv"):
        prepare_movielens(raw=str(tmp_path), out=str(tmp_path / "out"))


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of real rows is not there")
def test_real_ratings_give_one_test_request_for_each_user_with_enough_clicks(tmp_path):
    lives = defaultdict(list)
    for row in csv.DictReader((SAMPLE / "ratings.csv").open(newline="")):
        if float(row["rating"]) >= 4:
            lives[int(row["userId"])].append((int(row["timestamp"]), int(row["movieId"])))
    out = str(tmp_path / "out")
    schema = prepare_movielens(raw=str(SAMPLE), out=out)
    raw_user = pq.read_table(f"{out}/ids/user.parquet")["raw"].to_pylist()
    raw_item = pq.read_table(f"{out}/ids/item.parquet")["raw"].to_pylist()
    found = {}
    for row in pq.read_table(f"{out}/test").to_pylist():
        items = [*row["item"], row["requests"][0]["item"][0]]
        found[raw_user[row["user_id"] - 1]] = [raw_item[item - 1] for item in items]
    assert found == {
        user: [movie for _, movie in sorted(life, key=lambda click: click[0])]
        for user, life in lives.items()
        if len(life) >= 20
    }
    assert schema.counts["read"] == 100_836
