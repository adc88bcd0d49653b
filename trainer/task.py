"""From a batch to a loss: the only file that knows both a batch and a model.

Letters: T targets, K kept behaviours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from modules.interaction import RankerOutput
from modules.ranker import Ranker
from pipelines.batch import Batch


class StepOutput(NamedTuple):
    """What a step leaves for metrics; everything is detached."""

    loss: Tensor
    """Main loss summed over this rank's targets, weighted."""
    auxiliary_loss: Tensor
    """The same for the auxiliary network; 0 where there is none."""
    logit_T: Tensor
    label_T: Tensor
    weight_T: Tensor
    user_T: Tensor
    kept_TK: Tensor
    attention_TK: Tensor
    num_behaviours: int


class Objective(nn.Module):
    """Main loss, auxiliary loss and penalty.

    `L = sum_t w_t CE(main_t) / W + a * sum_t w_t CE(aux_t) / W + l2 * sum theta^2`, where W is the
    weight of the targets of all ranks (arXiv:2410.02604, released code). DDP and TorchRec average
    gradients over ranks, so each rank's share is multiplied by their number.

    Args:
        ranker: whose dense weights are penalised: all but biases and embeddings.
        auxiliary_weight: a.
        l2: factor of the penalty.
    """

    def __init__(self, ranker: Ranker, *, auxiliary_weight: float, l2: float) -> None:
        super().__init__()
        self.auxiliary_weight, self.l2 = auxiliary_weight, l2
        self._penalised = [
            parameter
            for name, parameter in ranker.interaction.named_parameters()
            if "bias" not in name and not name.startswith("positions.")
        ]

    def forward(
        self, output: RankerOutput, label_T: Tensor, weight_T: Tensor, total_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of this rank's targets.

        Args:
            output: of the ranker.
            label_T: clicked or not.
            weight_T: 0 on padding.
            total_weight: sum of the weights over all ranks.

        Returns:
            What to differentiate; the main and the auxiliary loss summed over this rank's targets.
        """
        main = binary_cross_entropy_with_logits(output.logit_T, label_T, weight_T, reduction="sum")
        auxiliary = torch.zeros_like(main)
        if output.auxiliary_logit_T is not None:
            auxiliary = binary_cross_entropy_with_logits(
                output.auxiliary_logit_T, label_T, weight_T, reduction="sum"
            )
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        loss = (main + self.auxiliary_weight * auxiliary) * (ranks / total_weight)
        if self.l2 > 0:
            loss = loss + self.l2 * sum(weight.square().sum() for weight in self._penalised)
        return loss, main.detach(), auxiliary.detach()


class TrainTask(nn.Module):
    """What TorchRec's pipelines run: a batch in, a loss and an output out.

    Args:
        ranker: the model.
        auxiliary_weight: weight of the auxiliary loss.
        l2: factor of the penalty on dense weights.
    """

    def __init__(self, ranker: Ranker, *, auxiliary_weight: float, l2: float) -> None:
        super().__init__()
        self.ranker = ranker
        self.objective = Objective(ranker, auxiliary_weight=auxiliary_weight, l2=l2)

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Score a batch and take its loss; straight-line, so that TorchRec can trace it.

        Returns:
            The loss to differentiate, and the step's output.
        """
        output = self.ranker(batch.features, batch.weight > 0, batch.num_history, batch.num_targets)
        losses = self.objective(output, batch.label, batch.weight, batch.total_weight)
        return losses[0], StepOutput(
            losses[1],
            losses[2],
            output.logit_T.detach(),
            batch.label,
            batch.weight,
            batch.user,
            output.kept_TK,
            output.weight_TK,
            batch.num_behaviours,
        )
