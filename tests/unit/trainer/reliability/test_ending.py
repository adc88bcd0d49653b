"""Which errors only say that another rank is gone."""

import pytest

from trainer.reliability.ending import SaveError, broken_connection, is_broken_connection

GLOO = "[/build/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError("Connection reset by peer"), True),
        (SaveError("checkpoint x could not be written: Connection reset by peer"), False),
        (RuntimeError("NCCL Error 2: /dev/shm: No space left on device"), False),
        (ValueError(GLOO), False),
    ],
)
def test_what_a_rank_has_itself_to_say_is_not_taken_for_anothers_end(error, broken):
    assert is_broken_connection(error) == broken


def test_the_first_line_stays_without_the_place_in_gloo():
    told = str(broken_connection(RuntimeError(f"{GLOO} [10.0.0.1]\nsecond line")))
    assert told.endswith("checkpoint (Connection closed by peer [10.0.0.1])")
