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


def schema_with(**rows: int) -> DatasetSchema:
    tables = {name: TableInfo(rows=count, distinct=count - 1) for name, count in rows.items()}
    return DatasetSchema(
        source="test", layout="user", seed=1, protocol={}, tables=tables, splits={}
    )
