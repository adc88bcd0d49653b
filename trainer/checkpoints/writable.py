"""Whether checkpoints can be written where they are to be, before a step is trained for them."""

from __future__ import annotations

from trainer.checkpoints.store import Store
from trainer.distributed import RunContext


def check_writable(store: Store, context: RunContext) -> None:
    """Write to the folder, see it on all ranks, and remove what was written; a collective.

    Args:
        store: of the checkpoints.
        context: of this process.

    Raises:
        ValueError: it cannot be written to, or is not the same folder on all ranks.
    """
    try:
        probe = context.from_main(store.leave_probe)
    except OSError as error:
        raise ValueError(
            f"{store.folder} cannot be written to, checkpoints would be lost: {error}; "
            "set checkpoint.folder or out_dir"
        ) from error
    seen = context.gather({str(context.rank): store.has_probe(probe)})
    context.on_main(lambda: store.remove_probe(probe))
    blind = sorted((rank for rank, sees in seen.items() if not sees), key=int)
    if blind:
        raise ValueError(
            f"{store.folder} is not the same folder on all ranks: what rank 0 writes, "
            f"ranks {', '.join(blind)} do not see; set checkpoint.folder or out_dir to a "
            "place that all hosts share"
        )
