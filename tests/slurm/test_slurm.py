"""Two nodes of a real Slurm train through `torchx run -s slurm`, whatever happens to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import TARGETS, data_options, prepare_small, rows_of
from tests.slurm.cluster import HOSTS, NODES, Cluster, missing, start_cluster
from tests.slurm.jobs import ROOT, Job, submit

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]

EPOCHS = 40
STEPS = 5 * EPOCHS  # Two ranks with batches of 512 take an epoch in five.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with start_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a training that takes some seconds and saves twice in each."""
    # For two hosts the planner may place tables otherwise than for two processes of one, and sums
    # in another order differ in the last bit.
    plan = tmp_path_factory.mktemp("plan") / "rows.yaml"
    plan.write_text('tables: {"*": {sharding_types: [row_wise]}}')
    return [
        f"--sharding.plan={plan}",
        *data_options(prepare_small(tmp_path_factory.mktemp("data"))),
        f"--loop.epochs={EPOCHS}",
        "--loop.evaluate_every=0",
        "--checkpoint.every=20",
        "--telemetry.log_every=1",
    ]


@pytest.fixture(scope="module")
def undisturbed(training: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run under plain torchrun, two processes of one host."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = ROOT / "launch/recipes/synthetic_dare.yaml"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-endpoint=localhost:0"]
    options = [f"--config={recipe}", *training, f"--out_dir={folder}", "--name=run"]
    done = subprocess.run(
        [sys.executable, *launcher, "--rdzv-backend=c10d", "-m", "trainer", "train", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def start(cluster: Cluster, training: list[str], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Submits a job with these options of the component, and ends it with the test."""
    cluster.wait_until_idle()
    jobs = []

    def submit_one(*options: str) -> Job:
        jobs.append(submit(cluster, tmp_path / "torchx", *options, arguments=training))
        return jobs[-1]

    yield submit_one
    for job in jobs:
        cluster.ask("scancel", "--full", "--quiet", job.job_id)


def assert_same(run: Path, other: Path) -> None:
    """Each step's loss and the result's metrics are equal to the last bit."""
    losses = rows_of(run, "train/loss")
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses == rows_of(other, "train/loss")
    mine, its = (json.loads((one / "result.json").read_text()) for one in (run, other))
    for measured in ("seconds", "samples_per_s", "peak_memory_bytes"):
        mine.pop(measured), its.pop(measured)
    assert mine == its
    assert (mine["samples"], mine["steps"], mine["ranks"]) == (EPOCHS * TARGETS["train"], STEPS, 2)


def test_two_nodes_train_as_two_processes_of_one_host(start, undisturbed):
    job = start()
    job.wait_for_progress()
    ranks = {node: job.trainer_on(node).environment for node in NODES}
    assert {one["RANK"] for one in ranks.values()} == {"0", "1"}
    assert {one["LOCAL_WORLD_SIZE"] for one in ranks.values()} == {"1"}
    job.wait_for_end()
    assert job.requeued == 0
    assert_same(job.run, undisturbed)


def test_dead_processes_are_started_again_by_torchrun_and_then_by_slurm(start, undisturbed):
    job = start("--max_restarts=1", "--max_retries=2")
    job.wait_for_progress()
    first = job.trainer_on(NODES[1])
    first.kill()
    job.wait_for_progress()
    again = job.trainer_on(NODES[1])
    assert (again.pid != first.pid, job.requeued) == (True, 0)
    again.kill()
    job.wait_for_requeue(1)
    job.wait_for_progress()
    job.agent_on(NODES[1]).kill()
    job.wait_for_requeue(2)
    job.wait_for_end()
    assert job.requeued == 2
    assert_same(job.run, undisturbed)


def test_a_job_that_is_told_to_end_saves_its_step_and_goes_on_from_there(
    start, undisturbed, cluster
):
    """By a signal, and by a job of a higher partition that takes its nodes."""
    job = start("--max_retries=1")
    job.wait_for_progress()
    cluster.ask("scancel", "--signal=TERM", job.job_id)
    job.wait_for_requeue(1)
    job.wait_for_progress()
    cluster.ask("srun", "--partition=urgent", "--nodes=2", "--exclusive", "true")
    assert job.requeued == 2
    job.wait_for_end()
    stopped, resumed = job.steps_told("which is saved"), job.steps_told("resumed")
    assert len(stopped) == 2
    assert stopped == resumed
    assert_same(job.run, undisturbed)


def test_a_job_outlives_the_loss_of_its_first_node(start, undisturbed, cluster):
    """Where its script, the rendezvous and rank 0 are, so that none of them can see to it."""
    job = start()
    job.wait_for_progress()
    first = job.batch_host
    cluster.lose_node(first)
    job.wait_for_requeue(1)
    cluster.start_node(first)
    job.wait_for_end(seconds=180)
    assert_same(job.run, undisturbed)


def test_a_job_outlives_the_loss_of_its_second_node(start, undisturbed, cluster):
    """Its script and the rendezvous stay, and end with the job that Slurm requeues."""
    job = start()
    job.wait_for_progress()
    (other,) = set(NODES) - {job.batch_host}
    cluster.lose_node(other)
    job.wait_for_requeue(1)
    cluster.start_node(other)
    job.wait_for_end(seconds=180)
    assert_same(job.run, undisturbed)


def test_nothing_stays_on_the_machine():
    with start_cluster() as cluster:
        cluster.ask("srun", "--nodes=2", "true")
        assert len(cluster.processes()) >= 4
        assert str(cluster.folder) in HOSTS.read_text()
    assert not cluster.folder.exists()
    assert not cluster.processes()
    assert str(cluster.folder) not in HOSTS.read_text()
