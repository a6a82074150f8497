"""Teachers and their ensemble: who speaks, how loud, and what the student is to hear.

A teacher is anything that gives logits for a batch: a network, an ONNX file, or logits computed before. A teacher
that cannot judge a sample (its modality is missing, or it lacks the head) has a row of NaN there; the others share
its weight.

Shape letters: B batch, M teachers, K classes, P (verb, noun) pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from egoloom.distillation.cross_fitting import silence_learnt
from egoloom.distillation.fitted_ensemble import FittedEnsemble, TeacherEnsembleConfig, TeacherTargets
from egoloom.distillation.losses import joint_log_probs
from egoloom.distillation.single_teacher import ModuleTeacher, OnnxTeacher, Teacher
from egoloom.distillation.weights import (
    camkd_weights,
    entropy_weights,
    fit_temperature,
    full_dataset_weights,
    mix_logits,
    mix_probabilities,
    per_sample_weights,
    renormalise,
    selective_weights,
    softmin,
    teacher_cross_entropy,
)
from egoloom.errors import UserError
from egoloom.models.base import batch_size_of, take_rows

__all__ = ["FittedEnsemble", "ModuleTeacher", "OnnxTeacher", "Teacher", "TeacherEnsemble", "TeacherEnsembleConfig"]


class TeacherEnsemble:
    """Several teachers as one.

    Args:
        teachers: Name to teacher.
        config: Weights and mixing.
        fitted: Temperatures and full-data-set weights of an earlier `fit`.
        learnt: Name to the clips a teacher was trained on and says nothing about; empty lets all judge everything.

    Raises:
        UserError: If there is no teacher, or two disagree about the number of classes of a head.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        config: TeacherEnsembleConfig | None = None,
        *,
        fitted: FittedEnsemble | None = None,
        learnt: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        if not teachers:
            raise UserError("A distilled run needs at least one teacher", fix="give --distillation.teachers RUN ...")
        self.teachers = dict(teachers)
        self.config = config or TeacherEnsembleConfig()
        self.fitted = fitted
        self.learnt = dict(learnt or {})
        self.heads: dict[str, int] = {}
        for name, teacher in self.teachers.items():
            for head, count in teacher.heads.items():
                if self.heads.setdefault(head, count) != count:
                    raise UserError(
                        f"Teacher {name!r} has {count} classes for {head!r}, an earlier one has {self.heads[head]}",
                        fix="train all teachers on the same label space",
                    )
        if fitted is not None and fitted.teachers != self.names:
            raise UserError(f"Fitted weights are for {fitted.teachers}, the teachers are {self.names}")

    @property
    def names(self) -> list[str]:
        """Names of the teachers, the order of the axis M."""
        return list(self.teachers)

    @property
    def modalities(self) -> tuple[str, ...]:
        """All inputs that some teacher needs, in order of first mention."""
        return tuple(dict.fromkeys(name for teacher in self.teachers.values() for name in teacher.modalities))

    def fingerprint(self) -> str:
        """Returns a string that changes with any teacher; the key of cached soft labels."""
        voices = "+".join(f"{name}:{teacher.fingerprint()}" for name, teacher in self.teachers.items())
        return f"{voices}, silent about their own training clips" if self.learnt else voices

    def to(self, device: torch.device | str) -> Self:
        """Moves the networks among the teachers."""
        for teacher in self.teachers.values():
            if isinstance(teacher, ModuleTeacher):
                teacher.module.to(device)
        return self

    def logits(self, inputs: Mapping[str, Any], clip_ids: Sequence[str] = ()) -> dict[str, Tensor]:
        """Returns head to every teacher's raw logits ``[B, M, K]``, NaN where a teacher cannot judge a sample.

        Args:
            inputs: Modality to batch, and the flags ``present``.
            clip_ids: The clips of the batch, by which cross-fitted teachers know what they learnt from.

        Raises:
            ValueError: If a teacher itself gives NaN.
        """
        values = [value for name, value in inputs.items() if name != "present"]
        batch = batch_size_of(values[0])
        judged = [self._judge(name, teacher, inputs, batch) for name, teacher in self.teachers.items()]
        stacked = {}
        for head, count in self.heads.items():
            device = next(verdict[head].device for verdict in judged if head in verdict)
            silent = torch.full((batch, count), torch.nan, device=device)
            stacked[head] = torch.stack([verdict.get(head, silent) for verdict in judged], dim=1)
        if not self.learnt or not clip_ids:
            return stacked
        return silence_learnt(stacked, clip_ids, [self.learnt.get(name, frozenset()) for name in self.names])

    def _judge(self, name: str, teacher: Teacher, inputs: Mapping[str, Any], batch: int) -> dict[str, Tensor]:
        flags = inputs.get("present", {})
        able_B = torch.ones(batch, dtype=torch.bool)
        for modality in teacher.modalities:
            able_B &= flags[modality].cpu() if modality in flags else torch.tensor(modality in inputs)
        if not bool(able_B.any()):
            return {head: torch.full((batch, count), torch.nan) for head, count in teacher.heads.items()}
        rows_B = able_B.nonzero().squeeze(1)
        seen = inputs
        if not bool(able_B.all()):
            seen = {key: take_rows(value, rows_B) for key, value in inputs.items()}
        verdict = {}
        for head, logits in teacher.logits(seen).items():
            if bool(torch.isnan(logits).any()):
                raise ValueError(f"Teacher {name!r} gives NaN for the head {head!r}: its training diverged?")
            full = torch.full((batch, logits.shape[1]), torch.nan, device=logits.device)
            verdict[head] = full.index_copy(0, rows_B.to(logits.device), logits)
        return verdict

    def fit(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], *, calibrate: bool = False
    ) -> FittedEnsemble:
        """Fits temperatures and full-data-set weights on held-out clips, and keeps them.

        Args:
            logits: Head to raw logits of all held-out clips, ``[N, M, K]``, as from `logits`.
            labels: Head to class ids ``[N]``, -1 where unlabelled.
            calibrate: Whether to fit one temperature a teacher and head first (an over-confident teacher drowns the
                others otherwise), and one of their mixture at the end: a mean of calibrated teachers is far less sure
                than it is right, because sensors that agree independently are better evidence than each alone.

        Raises:
            UserError: If a head has no labelled held-out clip that a teacher can judge.
        """
        temperatures, mean_ce, weights = {}, {}, {}
        for head, logits_NMK in logits.items():
            temperatures[head], mean_ce[head] = [], []
            for column, name in enumerate(self.names):
                if head not in self.teachers[name].heads:
                    temperatures[head].append(1.0)
                    mean_ce[head].append(float("inf"))
                    continue
                usable_N = ~torch.isnan(logits_NMK[:, column, 0]) & (labels[head] >= 0)
                if not bool(usable_N.any()):
                    raise UserError(f"No held-out clip lets teacher {name!r} be judged on {head!r}")
                own_NK, truth_N = logits_NMK[usable_N, column], labels[head][usable_N]
                temperature = fit_temperature(own_NK, truth_N) if calibrate else 1.0
                temperatures[head].append(temperature)
                own_ce = teacher_cross_entropy(own_NK.unsqueeze(1) / temperature, truth_N)
                mean_ce[head].append(float(own_ce.double().mean()))
            weights[head] = full_dataset_weights(
                torch.tensor(mean_ce[head], dtype=torch.float64), gamma=self.config.gamma
            ).tolist()
        num_clips = len(next(iter(labels.values())))
        self.fitted = FittedEnsemble(self.names, temperatures, mean_ce, weights, num_clips, self.config.gamma)
        if calibrate:
            self.fitted = replace(self.fitted, mixture_temperatures=self._mixture_temperatures(logits, labels))
        return self.fitted

    def _mixture_temperatures(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, float]:
        """One a head, for as many voices as a training clip hears: of cross-fitted teachers, one fold's at a time."""
        learnt = [self.learnt.get(name, frozenset()) for name in self.names]
        choirs = [torch.tensor([clips == own for clips in learnt]) for own in dict.fromkeys(learnt)]
        found = {}
        for head, logits_NMK in logits.items():
            mixtures = [
                self.mix(head, logits_NMK, present_BM=choir_M.expand(len(logits_NMK), -1)) for choir_M in choirs
            ]
            mixed_NK = torch.cat([mixed for mixed, _ in mixtures])
            labels_N = labels[head].repeat(len(choirs))
            usable_N = (torch.cat([weights for _, weights in mixtures]).sum(-1) > 0) & (labels_N >= 0)
            found[head] = fit_temperature(mixed_NK[usable_N], labels_N[usable_N])
        return found

    def scaled(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns logits after each teacher's fitted temperature (unchanged where none was fitted)."""
        if self.fitted is None:
            return dict(logits)
        fitted = self.fitted.temperatures
        return {
            head: value / torch.tensor(fitted[head], device=value.device, dtype=value.dtype).view(1, -1, 1)
            for head, value in logits.items()
        }

    def weights_for(self, head: str, logits_BMK: Tensor, labels_B: Tensor | None) -> Tensor:
        """Returns each teacher's weight ``[B, M]`` on each sample; rows sum to 1, or 0 where nobody may teach.

        Schemes that need labels use the full-data-set weights (uniform if none were fitted) for unlabelled samples.
        """
        present_BM = ~torch.isnan(logits_BMK[..., 0])
        logits_BMK = logits_BMK.nan_to_num()
        fallback_BM = self._label_free_weights(head, present_BM)
        scheme = self.config.weights
        if scheme in ("uniform", "full_dataset"):
            return fallback_BM
        if scheme == "entropy":
            return renormalise(entropy_weights(logits_BMK), present_BM)
        if labels_B is None:
            labels_B = torch.full(logits_BMK.shape[:1], -1, dtype=torch.long, device=logits_BMK.device)
        if scheme == "selective":
            chosen = selective_weights(logits_BMK, labels_B, min_confidence=self.config.min_confidence)
            chosen_BM = renormalise(chosen, present_BM)
            if self.config.when_none_qualifies == "fall_back":
                chosen_BM = torch.where(chosen_BM.sum(-1, keepdim=True) > 0, chosen_BM, fallback_BM)
            return chosen_BM
        weights_BM = self._label_based_weights(logits_BMK, labels_B.clamp_min(0), present_BM)
        return torch.where((labels_B >= 0).unsqueeze(1), weights_BM, fallback_BM)

    def _label_free_weights(self, head: str, present_BM: Tensor) -> Tensor:
        weights_BM = torch.ones_like(present_BM, dtype=torch.float32)
        if self.config.weights not in ("uniform", "entropy"):
            if self.fitted is not None:
                weights_BM = weights_BM * torch.tensor(self.fitted.weights[head], device=present_BM.device)
            elif self.config.weights == "full_dataset":
                raise ValueError("The scheme 'full_dataset' needs fit() on held-out clips first")
        return renormalise(weights_BM, present_BM)

    def _label_based_weights(self, logits_BMK: Tensor, labels_B: Tensor, present_BM: Tensor) -> Tensor:
        if bool(present_BM.all()):
            if self.config.weights == "camkd":
                return camkd_weights(logits_BMK, labels_B)
            return per_sample_weights(logits_BMK, labels_B, gamma=self.config.gamma)
        # An absent teacher must not take part in the softmax, so its cross-entropy is out of competition.
        ce_BM = teacher_cross_entropy(logits_BMK, labels_B)
        if self.config.weights == "per_sample":
            return renormalise(softmin(ce_BM.masked_fill(~present_BM, 1e30), self.config.gamma), present_BM)
        share_BM = ce_BM.masked_fill(~present_BM, -1e30).softmax(-1)
        alone_B1 = present_BM.sum(-1, keepdim=True) == 1
        return renormalise(torch.where(alone_B1, torch.ones_like(share_BM), 1.0 - share_BM), present_BM)

    def mix(
        self,
        head: str,
        logits_BMK: Tensor,
        labels_B: Tensor | None = None,
        present_BM: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Returns one head's mixed logits ``[B, K]`` and teachers' weights ``[B, M]``, from raw logits.

        Args:
            head: Its name.
            logits_BMK: Raw logits, online or cached, NaN rows where a teacher is silent.
            labels_B: Class ids (-1 unlabelled), for the schemes that look at them.
            present_BM: Teachers that may speak, besides the NaN rows.
            temperature: The loss's temperature; it matters when probabilities are mixed.
        """
        if present_BM is not None:
            logits_BMK = logits_BMK.masked_fill(~present_BM.bool().unsqueeze(-1), torch.nan)
        logits_BMK = self.scaled({head: logits_BMK})[head]
        weights_BM = self.weights_for(head, logits_BMK, labels_B)
        clean_BMK = logits_BMK.nan_to_num()
        sharpness = 1.0 if self.fitted is None else 1.0 / self.fitted.mixture_temperatures.get(head, 1.0)
        if self.config.mixing == "logits":
            return mix_logits(clean_BMK, weights_BM) * sharpness, weights_BM
        return mix_probabilities(clean_BMK, weights_BM, temperature=temperature) * sharpness, weights_BM

    def targets(
        self,
        logits: Mapping[str, Tensor],
        labels: Mapping[str, Tensor] | None = None,
        *,
        temperatures: Mapping[str, float] | float = 1.0,
    ) -> TeacherTargets:
        """Returns what the student is to match in all heads, from raw logits ``[B, M, K]`` (online or cached).

        Args:
            logits: Head to raw logits, as from `logits`.
            labels: Head to class ids ``[B]``, -1 where unlabelled.
            temperatures: The loss's temperature, one or by head.
        """
        mixed, weights, sample_weights = {}, {}, {}
        for head, logits_BMK in logits.items():
            single = isinstance(temperatures, float | int)
            temperature = temperatures if single else temperatures.get(head, 1.0)
            labels_B = None if labels is None else labels.get(head)
            mixed[head], weights[head] = self.mix(head, logits_BMK, labels_B, temperature=float(temperature))
            sample_weights[head] = (weights[head].sum(-1) > 0).float()
        return TeacherTargets(mixed, weights, sample_weights)

    def joint_targets(
        self,
        logits: Mapping[str, Tensor],
        labels: Mapping[str, Tensor] | None = None,
        *,
        pairs_P2: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities of (verb, noun) pairs ``[B, P]`` and a weight a sample ``[B]``.

        The teachers' joint distributions are averaged, with the mean of their verb and noun weights; the mean of
        products is not a product of means, so this target knows which verbs and nouns go together.
        """
        scaled = self.scaled(logits)
        parts = [
            self.weights_for(head, scaled[head], None if labels is None else labels.get(head))
            for head in ("verb", "noun")
        ]
        present_BM = ~(torch.isnan(scaled["verb"][..., 0]) | torch.isnan(scaled["noun"][..., 0]))
        weights_BM = renormalise((parts[0] + parts[1]) / 2, present_BM)
        joint_BMP = torch.stack(
            [
                joint_log_probs(verb_BV, noun_BN, pairs_P2=pairs_P2)
                for verb_BV, noun_BN in zip(
                    scaled["verb"].nan_to_num().unbind(1), scaled["noun"].nan_to_num().unbind(1), strict=True
                )
            ],
            dim=1,
        )
        return mix_probabilities(joint_BMP, weights_BM), (weights_BM.sum(-1) > 0).float()
