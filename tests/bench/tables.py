"""What was measured, as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

_TITLES = {"paper": "the paper's released code, DARE", "fuxictr": "FuxiCTR 2.3.10, TWIN"}


def to_markdown(result: dict[str, Any]) -> str:
    """A table a case, with what belongs to its figures."""
    machine = result["machine"]
    lines = [
        "# Training beside peers",
        "",
        f"{machine['machine']}, {machine['cores']} cores. Everyone may use all cores, reads in the "
        "training process, and trains in turns; the n-th turns are compared with each other. "
        "Samples/s and ratios: median, least to most.",
    ]
    if "gate" in result:
        gate = result["gate"]
        lines += [
            "",
            f"From the same weights, the logits of the paper's code and of this project differ by "
            f"at most {gate['logits_apart']:.1e}, and with Adam over whole tables (eps "
            f"{gate['adam_eps']:.0e}) the losses of {gate['steps']} steps by at most "
            f"{gate['losses_apart']:.1e} of themselves.",
        ]
    if "bytes_on_disk" in result:
        disk = result["bytes_on_disk"]
        lines += [
            "",
            f"Bytes a sample on disk, {disk['samples']:,} synthetic rows with histories of "
            f"{disk['history_length']}: {disk['paper_bytes_a_sample']:,.0f} as the paper's "
            f"preprocessing leaves them, {disk['ours_bytes_a_sample']:,.0f} here, "
            f"{disk['ratio']:.0f} times fewer.",
        ]
    for name, case in result["cases"].items():
        lines += ["", *_case(name, case)]
    return "\n".join(lines) + "\n"


def _case(name: str, case: dict[str, Any]) -> list[str]:
    peer = case["runs"][case["peer"]]
    lines = [
        f"## {name}: {_TITLES[case['peer']]}",
        "",
        f"{case['items']:,} items, histories of {case['history_length']:,}, K {case['top_k']}, "
        f"{case['width_a_feature']} a feature, {case['batch_size']:,} rows a step, "
        f"{case['repeats']} turns, {peer['threads']} threads, commit {case['commit']}.",
        "",
        "| who | optimizer | targets a request | samples/s | beside the peer | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for who, run in case["runs"].items():
        is_peer = who == case["peer"]
        model, _, way = who.partition(" ")
        optimizer = "dense Adam" if is_peer or way.startswith("dense") else "fused Adam"
        targets = "any" if is_peer else str(run["targets_a_request"])
        ratio = "1" if is_peer else _spread(run["beside"].values(), "{:.2f}")
        label = _TITLES[who] if is_peer else f"this, `{model}`"
        lines.append(
            f"| {label} | {optimizer} | {targets} | "
            f"{_spread(_quantiles(run['samples_per_s']), '{:,.0f}')} | {ratio} | "
            f"{run['peak_memory_bytes'] / 2**30:.2f} GiB |"
        )
    return lines


def _quantiles(rates: list[float]) -> list[float]:
    return [statistics.median(rates), min(rates), max(rates)]


def _spread(values: Any, form: str) -> str:
    middle, least, most = (form.format(value) for value in values)
    return f"{middle} ({least} to {most})"
