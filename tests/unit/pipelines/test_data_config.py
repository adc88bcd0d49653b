import pytest

from pipelines.ids import IdMode
from pipelines.loader import DataConfig
from pipelines.schema import DatasetSchema, TableInfo


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("history_length", 0),
        ("batch_size", 0),
        ("shuffle_requests", -1),
        ("shuffle_behaviours", 0),
        ("interval_buckets", 0),
        ("interval_unit", 0),
        ("workers", -1),
    ],
)
def test_a_size_that_cannot_be_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.{field} is {value}; at least {value + 1}"):
        DataConfig(**{field: value})


@pytest.mark.parametrize(
    ("ids", "asked", "rows"),
    [("check", 0, 10), ("check", 10, 10), ("check", 99, 99), ("hash", 0, 10), ("hash", 4, 4)],
)
def test_table_sizes_are_the_datas_unless_asked_for(ids: IdMode, asked: int, rows: int) -> None:
    schema = schema_with(item=10, category=3)
    assert DataConfig(ids=ids, item_rows=asked).rows(schema) == {"item": rows, "category": 3}


@pytest.mark.parametrize(
    ("ids", "asked", "problem"),
    [
        ("check", 9, r"data\.item_rows is 9, the data has ids up to 9; give at least 10"),
        ("hash", 1, r"data\.item_rows is 1; data\.ids hash .* needs at least 2"),
    ],
)
def test_a_table_that_cannot_hold_the_ids_is_refused(ids: IdMode, asked: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DataConfig(ids=ids, item_rows=asked).rows(schema_with(item=10, category=3))


def test_a_table_has_a_row_for_each_bucket_and_one_for_the_target() -> None:
    schema = schema_with(item=10, category=3, page=6)
    features = ("item", "category", "interval", "page")
    rows = {"item": 10, "category": 3, "interval": 33, "page": 6}
    assert DataConfig().rows(schema, features) == rows
    config = DataConfig(interval_buckets=9, feature_rows={"page": 8})
    assert config.rows(schema, features) == rows | {"interval": 10, "page": 8}
    assert config.rows(schema) == {"item": 10, "category": 3}


@pytest.mark.parametrize(
    ("features", "feature_rows", "problem"),
    [
        (["scene"], {}, r"model\.embeddings names the feature scene; .* has page$"),
        ([], {"scene": 9}, r"data\.feature_rows names the feature scene; .* has page$"),
        (
            ["page"],
            {"page": 5},
            r"data\.feature_rows\.page is 5, the data has ids up to 5; give at",
        ),
    ],
)
def test_a_feature_that_the_data_lacks_or_outgrows_is_named(
    features: list[str], feature_rows: dict[str, int], problem: str
) -> None:
    schema = schema_with(item=10, category=3, page=6)
    with pytest.raises(ValueError, match=problem):
        DataConfig(feature_rows=feature_rows).rows(schema, ("item", "category", *features))


@pytest.mark.parametrize(
    "rows", [{"item": 9}, {"interval": 9}, {"two words": 9}, {"history_x": 9}, {"page": -1}]
)
def test_rows_of_what_is_no_further_feature_are_refused(rows: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"data.feature_rows has {next(iter(rows))}: "):
        DataConfig(feature_rows=rows)


def test_more_buckets_than_doubling_can_fill_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.interval_buckets is 55; at most 54"):
        DataConfig(interval_buckets=55)


def schema_with(**rows: int) -> DatasetSchema:
    tables = {name: TableInfo(rows=count, distinct=count - 1) for name, count in rows.items()}
    return DatasetSchema(
        source="test", layout="user", seed=1, protocol={}, tables=tables, splits={}
    )
