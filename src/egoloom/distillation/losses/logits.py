"""Soft-target losses as pure functions of logits.

Shape letters: B batch, K classes, V verbs, N nouns, P (verb, noun) pairs.

Sources: KD (Hinton et al. 2015), DKD (Zhao et al., CVPR 2022), logit standardisation (Sun et al., CVPR 2024), DIST
(Huang et al., NeurIPS 2022). Every function computes in float32 or better: soft
labels at a high temperature differ in digits that bfloat16 does not have.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns the tensors in float32, or float64 where they are."""
    return tuple(tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in tensors)


def check_pair(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> None:
    """Raises ValueError where shapes differ or the temperature is not above zero."""
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"Student {list(student.shape)} and teacher {list(teacher.shape)} must both be [B, K]")
    if not temperature > 0:
        raise ValueError(f"The temperature must be above zero, got {temperature}")


def batch_mean(values_B: Tensor, weights_B: Tensor | None = None) -> Tensor:
    """Returns the mean over the batch, or the weighted sum divided by the batch size.

    A sample's weight scales its share and leaves the others alone: a batch without a usable teacher has loss 0.
    """
    if weights_B is None:
        return values_B.mean()
    return (values_B * weights_B).sum() / values_B.shape[0]


def kl_divergence(teacher_log_BK: Tensor, student_log_BK: Tensor) -> Tensor:
    """Returns KL(teacher || student) of each row, ``[B]``, from log-probabilities."""
    return F.kl_div(student_log_BK, teacher_log_BK, reduction="none", log_target=True).sum(dim=-1)


def logit_kd(
    student_BK: Tensor, teacher_BK: Tensor, *, temperature: float = 1.0, sample_weights_B: Tensor | None = None
) -> Tensor:
    """Returns the distillation loss of Hinton et al.: T² times the batch mean of KL(softmax(t/T) || softmax(s/T)).

    Args:
        student_BK: Student logits.
        teacher_BK: Teacher logits.
        temperature: T; the factor T² keeps the size of the gradients.
        sample_weights_B: Optional weight of each sample, zero to leave it out.

    Raises:
        ValueError: If the shapes differ or the temperature is not above zero.
    """
    check_pair(student_BK, teacher_BK, temperature)
    student_BK, teacher_BK = exact(student_BK, teacher_BK)
    divergence_B = kl_divergence((teacher_BK / temperature).log_softmax(-1), (student_BK / temperature).log_softmax(-1))
    return temperature**2 * batch_mean(divergence_B, sample_weights_B)


def decoupled_kd_parts(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns the target-class and the non-target-class term of DKD a sample, both ``[B]`` and times T²."""
    check_pair(student_BK, teacher_BK, temperature)
    dtype = exact(student_BK)[0].dtype
    if student_BK.device.type != "mps":
        # The two-class term is a small difference of large numbers; float32 leaves it four digits.
        student_BK, teacher_BK = student_BK.double(), teacher_BK.double()
    target = F.one_hot(labels_B, student_BK.shape[1]).bool()

    def two_class(logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        scaled = logits_BK / temperature
        total = scaled.logsumexp(-1)
        hit = scaled[target] - total
        others = scaled.masked_fill(target, -torch.inf)
        return torch.stack([hit, others.logsumexp(-1) - total], dim=-1), others

    student_two, student_others = two_class(student_BK)
    teacher_two, teacher_others = two_class(teacher_BK)
    target_B = kl_divergence(teacher_two, student_two)
    # The target's column is minus infinity on both sides; it must not enter as 0 * (inf - inf).
    teacher_log = teacher_others.log_softmax(-1)
    student_log = student_others.log_softmax(-1)
    difference = (teacher_log - student_log).masked_fill(target, 0.0)
    others_B = (teacher_log.exp() * difference).sum(-1)
    return (temperature**2 * target_B).to(dtype), (temperature**2 * others_B).to(dtype)


def decoupled_kd(
    student_BK: Tensor,
    teacher_BK: Tensor,
    labels_B: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    sample_weights_B: Tensor | None = None,
) -> Tensor:
    """Returns decoupled KD: ``alpha`` times the target-class term plus ``beta`` times the non-target-class term.

    TCKD is the KL divergence between the two-class distributions (target, rest); NCKD that between the distributions
    over the other classes; both times T² (Zhao et al., CVPR 2022, eq. 6-7; defaults of their code).

    Raises:
        ValueError: If shapes differ or the temperature is not above zero.
    """
    target_B, others_B = decoupled_kd_parts(student_BK, teacher_BK, labels_B, temperature=temperature)
    return batch_mean(alpha * target_B + beta * others_B, sample_weights_B)


def standardize(logits_BK: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Returns logits with mean 0 and standard deviation 1 in each row (K - 1 in the denominator)."""
    (logits_BK,) = exact(logits_BK)
    mean = logits_BK.mean(-1, keepdim=True)
    return (logits_BK - mean) / (epsilon + logits_BK.std(-1, keepdim=True))


def standardized_kd(
    student_BK: Tensor, teacher_BK: Tensor, *, temperature: float = 2.0, sample_weights_B: Tensor | None = None
) -> Tensor:
    """Returns KD after standardising both sides' logits (Sun et al., CVPR 2024): it teaches shape, not size.

    The student's own confidence is then free; combine it with cross-entropy, or calibrate afterwards.
    """
    check_pair(student_BK, teacher_BK, temperature)
    return logit_kd(
        standardize(student_BK),
        standardize(teacher_BK),
        temperature=temperature,
        sample_weights_B=sample_weights_B,
    )


def pearson(a: Tensor, b: Tensor, *, dim: int = -1, epsilon: float = 1e-8) -> Tensor:
    """Returns Pearson's correlation along an axis: centred dot product over the product of norms, at least epsilon.

    Published codes differ here: adding epsilon instead bends the gradient of classes of almost no probability.
    """
    a = a - a.mean(dim, keepdim=True)
    b = b - b.mean(dim, keepdim=True)
    return (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim)).clamp_min(epsilon)


def dist_kd(
    student_BK: Tensor,
    teacher_BK: Tensor,
    *,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Tensor:
    """Returns DIST (Huang et al., NeurIPS 2022, eq. 9-10): one minus correlation, within samples and within classes.

    With q = softmax(z / tau): ``inter`` correlates rows of q, ``intra`` its columns over the batch; both times tau².
    The loss looks at the batch as a whole and so takes no weight a sample.
    """
    check_pair(student_BK, teacher_BK, temperature)
    student_BK, teacher_BK = exact(student_BK, teacher_BK)
    student_probs = (student_BK / temperature).softmax(-1)
    teacher_probs = (teacher_BK / temperature).softmax(-1)
    inter = 1.0 - pearson(student_probs, teacher_probs, dim=-1).mean()
    intra = 1.0 - pearson(student_probs, teacher_probs, dim=0).mean()
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def joint_log_probs(
    verb_BV: Tensor, noun_BN: Tensor, *, temperature: float = 1.0, pairs_P2: Tensor | None = None
) -> Tensor:
    """Returns log-probabilities of actions, from verb and noun logits.

    Args:
        verb_BV: Verb logits.
        noun_BN: Noun logits.
        temperature: Divides both.
        pairs_P2: The (verb, noun) pairs that exist; all V * N where not given (verb-major order).

    Returns:
        ``[B, P]``, normalised over the pairs.
    """
    verb_BV, noun_BN = exact(verb_BV, noun_BN)
    if pairs_P2 is None:
        scores = (verb_BV.unsqueeze(2) + noun_BN.unsqueeze(1)).flatten(1)
    else:
        scores = verb_BV[:, pairs_P2[:, 0]] + noun_BN[:, pairs_P2[:, 1]]
    return (scores / temperature).log_softmax(-1)


def joint_verb_noun_kd(
    student_verb_BV: Tensor,
    student_noun_BN: Tensor,
    teacher_BP: Tensor,
    *,
    temperature: float = 1.0,
    pairs_P2: Tensor | None = None,
    sample_weights_B: Tensor | None = None,
) -> Tensor:
    """Returns KD on the joint distribution of verb and noun.

    For one teacher and all pairs this equals verb KD plus noun KD, since the distributions are products. It differs
    where it matters: over the pairs that exist, or for an ensemble whose members' joint distributions are averaged
    (that target knows that *wash* goes with *plate*, which neither margin knows).

    Args:
        student_verb_BV: Student verb logits.
        student_noun_BN: Student noun logits.
        teacher_BP: Teacher's logits or log-probabilities over the pairs at temperature 1 (`joint_log_probs` of one
            teacher, or the log of a mean of several).
        temperature: T, with the factor T².
        pairs_P2: The pairs, as in `joint_log_probs`.
        sample_weights_B: Optional weight of each sample.
    """
    student_BP = joint_log_probs(student_verb_BV, student_noun_BN, temperature=temperature, pairs_P2=pairs_P2)
    check_pair(student_BP, teacher_BP, temperature)
    (teacher_BP,) = exact(teacher_BP)
    divergence_B = kl_divergence((teacher_BP / temperature).log_softmax(-1), student_BP)
    return temperature**2 * batch_mean(divergence_B, sample_weights_B)


def masked_cross_entropy(
    logits_BK: Tensor,
    labels_B: Tensor,
    *,
    label_smoothing: float = 0.0,
    sample_weights_B: Tensor | None = None,
) -> Tensor:
    """Returns the (weighted) mean cross-entropy over samples with a label (not -1), zero if there is none.

    Raises:
        ValueError: If a label is out of range.
    """
    (logits_BK,) = exact(logits_BK)
    if labels_B.numel() and (int(labels_B.max()) >= logits_BK.shape[1] or int(labels_B.min()) < -1):
        raise ValueError(
            f"Labels lie in {int(labels_B.min())}..{int(labels_B.max())}, but the head has "
            f"{logits_BK.shape[1]} classes (-1 means unlabelled)"
        )
    losses_B = F.cross_entropy(logits_BK, labels_B, ignore_index=-1, reduction="none", label_smoothing=label_smoothing)
    known_B = (labels_B >= 0).to(losses_B.dtype)
    if sample_weights_B is not None:
        known_B = known_B * sample_weights_B
    return (losses_B * known_B).sum() / known_B.sum().clamp_min(1e-8)
