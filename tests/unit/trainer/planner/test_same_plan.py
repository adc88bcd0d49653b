"""Planning again gives the same plan, in whatever process."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROGRAM = """
import json
from tests.small_run import small_config, small_schema
from trainer.build import make_workload
from trainer.planner.config import PlanConfig, TopologySpec
from trainer.planner.job import place
from trainer.planner.planning import find_plan

machines = TopologySpec(gpus_a_host=2, device="cpu")
workload = make_workload(small_config(), small_schema(), PlanConfig(topology=machines), machines)
print(json.dumps(place(workload, find_plan(workload)).rows))
"""


def test_the_order_of_sets_of_words_does_not_choose_between_plans_of_equal_cost():
    """Python's differs from process to process; TorchRec keeps its options in such sets."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "2")
    ]
    first, other = (json.loads(process.communicate()[0].splitlines()[-1]) for process in processes)
    assert first
    assert other == first
