"""What every job is given: variables, and how its hosts find each other."""

from __future__ import annotations

SETTINGS: dict[str, str] = {
    # A broken link or a wrong interface is told by NCCL itself, not only by a timeout.
    "NCCL_DEBUG": "WARN",
    # InfiniBand tries 7 times, 17 s each (4.096 us * 2^22), so a link that flaps ends no job.
    "NCCL_IB_TIMEOUT": "22",
    # The watchdog's own watchdog: no sooner than the 30 minutes that a first step may take.
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "1800",
    # The last 2000 collectives of each rank are written where one times out: who waits for whom.
    "TORCH_FR_BUFFER_SIZE": "2000",
    # After SIGTERM torchrun kills ranks that still save after so many seconds; its own 30 are few.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120",
    # Without it torch 2.13 tells a host that comes back no address, and both wait for nothing.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Lines are seen when they are told, and a crash in native code shows the Python that led to it.
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    # torchrun tells of restarts, not of each of its steps.
    "LOGLEVEL": "WARNING",
    # Of each of several processes, as torchrun has it for those of one host.
    "OMP_NUM_THREADS": "1",
}
"""Variables of every job; `--env NAME=VALUE` sets others or replaces these."""

RENDEZVOUS: dict[str, int] = {
    # Seconds for all hosts to come: images are pulled and machines booted meanwhile.
    "join_timeout": 1800,
    # Seconds to wait for the first host's store to answer, as its name may not resolve yet.
    "read_timeout": 600,
    # With MIN:MAX hosts: seconds to wait for more once MIN are there.
    "last_call_timeout": 60,
    # A host that was not heard of for 6 times 5 s is gone.
    "keep_alive_interval": 5,
    "keep_alive_max_attempt": 6,
}
"""How hosts find each other (`--rdzv-conf` of torchrun); `--rdzv_timeout` replaces the first."""
