"""Short measures for reports within this package; the full set is ``egoloom.evaluation.video_quality``."""

from collections.abc import Sequence

import torch

from egoloom.exo2ego.samples import GeneratorSample


def mean_quality(frames: Sequence[torch.Tensor], samples: Sequence[GeneratorSample]) -> dict[str, float]:
    """Returns mean PSNR in dB and SSIM of generated clips over those samples that have ego truth."""
    from egoloom.evaluation.video_quality import psnr_db, ssim

    pairs = [(ours, s.truth_TCHW) for ours, s in zip(frames, samples, strict=True) if s.truth_TCHW is not None]
    if not pairs:
        return {}
    return {
        "psnr_db": sum(psnr_db(ours, truth) for ours, truth in pairs) / len(pairs),
        "ssim": sum(ssim(ours, truth) for ours, truth in pairs) / len(pairs),
    }
