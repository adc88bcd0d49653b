"""Triton kernels of `jagged_gpu`, which alone imports this file, where there is a GPU.

A score and its column are one key of 64 bits: the score's bits, brought to the order of whole
numbers, above the column counted backwards. So no two keys of a history are equal, of equal scores
the newer behaviour is larger, and NaN is largest of all, as in `torch.topk`.
Letters: R requests, M targets a request, L behaviours of the longest history, K kept, F folds of a
history, C candidates of a target, N jagged total, D width.
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_KEY = tl.constexpr(-(1 << 63))
"""Of padding: less than any key. A NaN's sign is dropped, so that no score has these bits."""
_LENGTHS = ["targets", "folds", "candidates"]
"""Differ from batch to batch: nothing is compiled anew for them."""


@triton.jit
def make_key(score, column):
    """Keys of float32 scores and their columns."""
    score = tl.where(score == 0, 0.0, score)  # Two zeros are one score.
    score = tl.where(score != score, float("nan"), score)
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)


@triton.jit(do_not_specialize=_LENGTHS)
def fold_keys(
    history_ND,
    query_RMD,
    position_L,
    offset_R1,
    key_RMF,
    width,
    history_stride,
    targets,
    folds,
    factor,
    BLOCK_TARGETS: tl.constexpr,
    BLOCK_HISTORY: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    FOLD: tl.constexpr,
):
    """The largest key of each FOLD behaviours that lie side by side.

    A program takes some behaviours of a request and some of its targets. Programs of the same
    behaviours are neighbours, so that those are read from memory once.
    """
    parts = tl.cdiv(targets, BLOCK_TARGETS)
    blocks = tl.cdiv(folds * FOLD, BLOCK_HISTORY)
    program = tl.program_id(0)
    request = (program // (parts * blocks)).to(tl.int64)
    start = (program // parts) % blocks * BLOCK_HISTORY
    target = program % parts * BLOCK_TARGETS + tl.arange(0, BLOCK_TARGETS)
    column = start + tl.arange(0, BLOCK_HISTORY)
    first = tl.load(offset_R1 + request)
    length = tl.load(offset_R1 + request + 1) - first
    there = column < length
    key = tl.full((BLOCK_TARGETS, BLOCK_HISTORY), NO_KEY, tl.int64)
    if start < length:
        row = history_ND + (first + column) * history_stride
        query = query_RMD + (request * targets + target) * width
        score = tl.zeros((BLOCK_TARGETS, BLOCK_HISTORY), tl.float32)
        for number in range(0, width, BLOCK_WIDTH):
            part = number + tl.arange(0, BLOCK_WIDTH)
            inside = part < width
            query_MD = tl.load(
                query[:, None] + part[None, :],
                mask=(target < targets)[:, None] & inside[None, :],
                other=0.0,
            )
            row_DL = tl.load(
                row[None, :] + part[:, None], mask=inside[:, None] & there[None, :], other=0.0
            )
            score = tl.dot(
                query_MD.to(tl.float32), row_DL.to(tl.float32), score, input_precision="ieee"
            )
        position = tl.load(position_L + column, mask=there, other=0.0)
        score = tl.fma(score, tl.full(score.shape, factor, tl.float32), position[None, :])
        key = tl.where(there[None, :], make_key(score, column[None, :]), key)
    grouped = tl.reshape(key, (BLOCK_TARGETS, BLOCK_HISTORY // FOLD, FOLD))
    fold = start // FOLD + tl.arange(0, BLOCK_HISTORY // FOLD)
    tl.store(
        key_RMF + (request * targets + target)[:, None] * folds + fold[None, :],
        tl.max(grouped, axis=2),
        mask=(target < targets)[:, None] & (fold < folds)[None, :],
    )


@triton.jit(do_not_specialize=_LENGTHS)
def candidate_keys(
    history_ND,
    query_RMD,
    position_L,
    offset_R1,
    fold_RMK,
    key_RMC,
    width,
    history_stride,
    targets,
    candidates,
    factor,
    BLOCK_CANDIDATES: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    FOLD: tl.constexpr,
):
    """Keys of all behaviours of the chosen folds.

    Products are added up in the order of `fold_keys`, one number after the other, so that a key
    here is the same as there.
    """
    blocks = tl.cdiv(candidates, BLOCK_CANDIDATES)
    program = tl.program_id(0)
    cell = (program // blocks).to(tl.int64)
    candidate = program % blocks * BLOCK_CANDIDATES + tl.arange(0, BLOCK_CANDIDATES)
    first = tl.load(offset_R1 + cell // targets)
    length = tl.load(offset_R1 + cell // targets + 1) - first
    fold = tl.load(
        fold_RMK + cell * (candidates // FOLD) + candidate // FOLD,
        mask=candidate < candidates,
        other=0,
    )
    column = fold * FOLD + candidate % FOLD
    there = (candidate < candidates) & (column < length)
    row = history_ND + (first + column) * history_stride
    query = query_RMD + cell * width
    score = tl.zeros((1, BLOCK_CANDIDATES), tl.float32)
    for number in range(0, width, BLOCK_WIDTH):
        part = number + tl.arange(0, BLOCK_WIDTH)
        inside = part < width
        query_1D = tl.load((query + part)[None, :], mask=inside[None, :], other=0.0)
        row_DC = tl.load(
            row[None, :] + part[:, None], mask=inside[:, None] & there[None, :], other=0.0
        )
        score = tl.dot(
            query_1D.to(tl.float32), row_DC.to(tl.float32), score, input_precision="ieee"
        )
    position = tl.load(position_L + column, mask=there, other=0.0)
    score = tl.fma(score, tl.full(score.shape, factor, tl.float32), position[None, :])
    key = make_key(score, column[None, :].to(tl.int32))
    key = tl.where(there[None, :], key, tl.full(key.shape, NO_KEY, tl.int64))
    tl.store(
        key_RMC + cell * candidates + candidate[None, :],
        key,
        mask=(candidate < candidates)[None, :],
    )
