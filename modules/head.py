"""The head: what it sees of target and history, and the click's logit.

Letters: T targets, D width of the representation space, F width of the head's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modules.norm import EvaluationStatistics, NormKind, make_norm
from modules.widths import MOST_WIDTH

Inputs = Literal["target_history_product", "target_product", "target_history", "product"]
_PARTS: dict[Inputs, int] = {
    "target_history_product": 3,
    "target_product": 2,
    "target_history": 2,
    "product": 1,
}


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The network that turns target and history into a click's logit."""

    inputs: Inputs = "target_history_product"
    """`target_history_product`: [v; h; h*v], the released code. `target_product`: [v; h*v], the
    paper's section 3.2. `target_history`: [v; h], without target-aware representation.
    `product`: [h*v]."""
    hidden: tuple[int, ...] = (200, 80)
    """Widths of the main network's hidden layers."""
    auxiliary_hidden: tuple[int, ...] = (200,)
    """Widths of the auxiliary network's hidden layers."""
    auxiliary_weight: float = 1.0
    """Weight of the auxiliary loss, whose history is pooled by a softmax over all behaviours. The
    released code has 1, the paper does not mention it; 0 leaves the auxiliary network out."""
    auxiliary_sample: int = 0
    """In training, behaviours of a request that the auxiliary head sums, drawn anew each step; 0
    for all."""
    norm: NormKind = "batch"
    """Normalisation of the input: `batch` (over this rank's targets), `batch_all_ranks`, `layer`
    or `none`."""
    evaluation_statistics: EvaluationStatistics = "running"
    """What batch norms use in evaluation; `batch` is the released code, which never leaves
    training mode, so that a score depends on its batch."""

    def __post_init__(self) -> None:
        for name in ("hidden", "auxiliary_hidden"):
            if not all(1 <= width <= MOST_WIDTH for width in getattr(self, name)):
                raise ValueError(
                    f"model.head.{name} is {getattr(self, name)}; widths must be at least 1, at "
                    f"most {MOST_WIDTH}"
                )
        for name in ("auxiliary_weight", "auxiliary_sample"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"model.head.{name} is {getattr(self, name)}; it must be 0 or more"
                )


def head_input(target_TD: Tensor, history_TD: Tensor, inputs: Inputs) -> Tensor:
    """What the head sees.

    Args:
        target_TD: v, the target from the representation space.
        history_TD: h, the pooled history from the representation space.
        inputs: which of v, h and their product.

    Returns:
        input_TF, the parts side by side.
    """
    product_TD = history_TD * target_TD
    parts = {
        "target_history_product": [target_TD, history_TD, product_TD],
        "target_product": [target_TD, product_TD],
        "target_history": [target_TD, history_TD],
        "product": [product_TD],
    }
    return torch.cat(parts[inputs], dim=1)


class Head(nn.Module):
    """Norm, hidden layers with PReLU, two outputs whose difference is the click's logit.

    Two outputs and their softmax are the released code's form; the softmax's click probability
    is the sigmoid of their difference.

    Args:
        config: inputs and norm.
        hidden: widths of the hidden layers.
        width: D.
    """

    def __init__(self, config: HeadConfig, hidden: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.inputs: Inputs = config.inputs
        features = _PARTS[config.inputs] * width
        self.norm = make_norm(config.norm, features, config.evaluation_statistics)
        layers: list[nn.Module] = []
        for before, after in zip((features, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after), nn.PReLU(init=0.1)]
        self.layers = nn.Sequential(*layers, nn.Linear((features, *hidden)[-1], 2))

    def forward(self, target_TD: Tensor, history_TD: Tensor, counts_T: Tensor) -> Tensor:
        """The click's logit of each target.

        Args:
            target_TD: the target from the representation space.
            history_TD: its pooled history.
            counts_T: False on padding, which batch norms leave out.

        Returns:
            logit_T, float32.
        """
        output_T2 = self.layers(self.norm(head_input(target_TD, history_TD, self.inputs), counts_T))
        return (output_T2[:, 0] - output_T2[:, 1]).float()
