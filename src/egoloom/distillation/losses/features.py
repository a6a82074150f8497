"""Losses between features, for teachers whose classes the student does not share.

Shape letters: B batch, D features, Q queue entries.
"""

import torch.nn.functional as F
from torch import Tensor

from egoloom.distillation.losses.logits import exact


def feature_kd(student_BD: Tensor, teacher_BD: Tensor, *, kind: str = "cosine") -> Tensor:
    """Returns a distance between features.

    Args:
        student_BD: Student features; for ``l2`` and ``cosine`` projected to the teacher's width.
        teacher_BD: Teacher features; they get no gradient.
        kind: ``l2`` (mean squared error), ``cosine`` (one minus cosine) or ``relational`` (mean squared error between
            the batch's cosine matrices, so widths may differ; after Park et al., CVPR 2019).

    Raises:
        ValueError: If ``kind`` is unknown or the shapes do not fit it.
    """
    student_BD, teacher_BD = exact(student_BD, teacher_BD.detach())
    if kind == "relational":
        student_BB = F.normalize(student_BD, dim=-1) @ F.normalize(student_BD, dim=-1).T
        teacher_BB = F.normalize(teacher_BD, dim=-1) @ F.normalize(teacher_BD, dim=-1).T
        return F.mse_loss(student_BB, teacher_BB)
    if student_BD.shape != teacher_BD.shape:
        raise ValueError(
            f"Student features {list(student_BD.shape)} and teacher features {list(teacher_BD.shape)} differ; "
            "project the student first or use kind='relational'"
        )
    if kind == "l2":
        return F.mse_loss(student_BD, teacher_BD)
    if kind == "cosine":
        return (1.0 - F.cosine_similarity(student_BD, teacher_BD, dim=-1)).mean()
    raise ValueError(f"Unknown kind {kind!r}; allowed: l2, cosine, relational")


def queue_kd(
    student_BD: Tensor,
    teacher_BD: Tensor,
    queue_QD: Tensor,
    *,
    student_temperature: float = 0.05,
    teacher_temperature: float = 0.1,
) -> Tensor:
    """Returns the label-free loss of COMODO: cross-entropy between similarities to a queue of teacher features.

    Teacher and student each turn their cosine similarities to the same queue into a distribution; the student's is
    drawn to the teacher's. It needs no labels and no classes in common (arXiv 2503.07259; its default temperatures).
    """
    student_BD, teacher_BD, queue_QD = exact(student_BD, teacher_BD.detach(), queue_QD.detach())
    queue_QD = F.normalize(queue_QD, dim=-1)
    teacher_BQ = (F.normalize(teacher_BD, dim=-1) @ queue_QD.T / teacher_temperature).softmax(-1)
    student_BQ = (F.normalize(student_BD, dim=-1) @ queue_QD.T / student_temperature).log_softmax(-1)
    return -(teacher_BQ * student_BQ).sum(-1).mean()
