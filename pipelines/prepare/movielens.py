"""`dare prepare movielens`: ratings.csv and movies.csv; a high rating is a click."""

from __future__ import annotations

import csv
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.prepare.build import Preparation, prepare
from pipelines.prepare.event_store import DEFAULT_RESOURCES, Resources
from pipelines.prepare.protocol import Protocol
from pipelines.prepare.raw_file import RawFormat
from pipelines.prepare.rows import Rows
from pipelines.schema import DatasetSchema, Layout

Category = Literal["first_genre", "all_genres"]
COLUMNS = ("userId", "movieId", "rating", "timestamp")
SMALL = Protocol(min_clicks=20, min_history=5)


def prepare_movielens(
    *,
    raw: str,
    out: str,
    layout: Layout = "user",
    history_length: int = 200,
    protocol: Protocol = SMALL,
    min_rating: float = 4.0,
    category: Category = "first_genre",
    max_bad_rows: int = 100,
    seed: int = 1,
    resources: Resources = DEFAULT_RESOURCES,
) -> DatasetSchema:
    """Turn a MovieLens release into a dataset.

    Args:
        raw: folder with ratings.csv and movies.csv, as unpacked.
        out: folder of the new dataset.
        layout: one row a user, or one row a request.
        history_length: behaviours a row keeps, with the request layout; the user layout keeps all.
        protocol: which clicks become targets; the least number of clicks is lower than the
            paper's, because few people rate so many movies.
        min_rating: a rating of at least so many stars counts as a click.
        category: a movie's category is its first genre, or its genres taken together.
        max_bad_rows: more damaged rows than this are an error.
        seed: of the negatives.
        resources: what it may take of the machine.

    Raises:
        ValueError: an option or the raw files are not what they should be.
    """
    movie, genre = _genres(storage.join(raw, "movies.csv"), category)

    def parse(rows: Rows) -> dict[str, Any]:
        user, item, _, time = (
            rows.text(name) if name == "rating" else rows.integers(name) for name in COLUMNS
        )
        rows.drop(_ratings(rows) < min_rating, f"rating below {min_rating:g}")
        at = np.minimum(np.searchsorted(movie, item), movie.size - 1)
        rows.drop(movie[at] != item, "movie without genres in movies.csv")
        event = np.zeros(rows.num_rows, np.int8)
        kinds = genre.take(pa.array(at))
        return {"user": user, "item": item, "category": kinds, "event": event, "time": time}

    job = Preparation(
        source="movielens",
        raw=storage.join(raw, "ratings.csv"),
        out=out,
        layout=layout,
        history_length=history_length,
        protocol=protocol,
        resources=resources,
        max_bad_rows=max_bad_rows,
        seed=seed,
        options={"min_rating": min_rating, "category": category},
    )
    return prepare(job, RawFormat(header=True, needed=COLUMNS), parse)


def _ratings(rows: Rows) -> np.ndarray:
    text = rows.text("rating")
    sound = pc.match_substring_regex(text, r"^[0-9]+(\.[0-9]+)?$")
    rows.damage(~sound.to_numpy(zero_copy_only=False), "rating is not a number from 0 on")
    stars: np.ndarray = pc.if_else(sound, text, "0").cast(pa.float64()).to_numpy()
    return stars


def _genres(path: str, category: Category) -> tuple[np.ndarray, pa.Array]:
    """Movie ids, ascending, and the category of each."""
    if not storage.exists(path):
        raise ValueError(
            f"{path} is not there; --raw is the folder with ratings.csv and movies.csv"
        )
    with storage.open_file(path, "r") as stream:
        table = list(csv.reader(stream))
    genres: dict[int, str] = {}
    for line, row in enumerate(table[1:], start=2):
        if len(row) != 3 or not row[0].isdecimal():
            raise ValueError(f"{path} line {line} is {row}; it must be movieId,title,genres")
        genres[int(row[0])] = row[2].split("|")[0] if category == "first_genre" else row[2]
    if not genres:
        raise ValueError(f"{path} holds no movie")
    movies = sorted(genres)
    return np.array(movies, np.int64), pa.array([genres[movie] for movie in movies], pa.string())
