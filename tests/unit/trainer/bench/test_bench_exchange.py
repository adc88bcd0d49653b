"""What is counted between ranks fits where what is counted fits."""

from trainer.bench.exchange import _config


def test_the_planner_leaves_room_for_the_batch_that_is_counted_and_no_more():
    setting = {"history_length": 10_000, "top_k": 20, "targets": 3, "width": 128, "auxiliary": True}
    config = _config(setting, 4, "plan.yaml", ["attention_lookup=scored"])
    assert config.data.batch_size == 12
    assert config.data.history_length == 10_000
