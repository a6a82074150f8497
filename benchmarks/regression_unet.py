"""The honest baseline of the tiny generator: a plain regression U-Net, frame by frame."""

import copy
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from egoloom.exo2ego.samples import GeneratorSample, fill_holes


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns features of the same height and width."""
        return F.silu(self.second(F.silu(self.norm(self.first(x)))))


class RegressionUNet(nn.Module):
    """The honest baseline: frame by frame, filled prior + coverage + exo in, ego out, mean squared error."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 3, 4, 4)]
        self.down = nn.ModuleList(Block(i, o) for i, o in zip([7, *widths[:-1]], widths, strict=True))
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(Block(low + skip, skip) for low, skip in pairs)
        self.out = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ego frames in [-1, 1] for ``[N, 7, H, W]``."""
        prior, skips = x[:, :3], []
        for index, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if index else x)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], 1))
        return prior + self.out(x)


def unet_input(sample: GeneratorSample) -> torch.Tensor:
    """Returns ``[T, 7, H, W]``: filled prior, coverage, exo."""
    assert sample.hole_THW is not None
    prior = fill_holes(sample.prior_TCHW, sample.hole_THW).float() / 127.5 - 1
    exo = F.interpolate(sample.exo_TCHW.float(), size=prior.shape[2:], mode="area") / 127.5 - 1
    return torch.cat([prior, (~sample.hole_THW)[:, None].float(), exo], 1)


def train_unet(train: list[GeneratorSample], seconds: float) -> RegressionUNet:
    """Returns the averaged weights of a U-Net trained for so many CPU seconds."""
    torch.manual_seed(0)
    x = torch.cat([unet_input(sample).half() for sample in train])
    truths = [sample.truth_TCHW for sample in train if sample.truth_TCHW is not None]
    y = torch.cat([(truth.float() / 127.5 - 1).half() for truth in truths])
    model = RegressionUNet()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.01)
    start, step = time.process_time(), 0
    while (done := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        index = torch.randint(len(x), (12,))
        loss = (model(x[index].float()) - y[index].float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        with torch.no_grad():
            for kept, now in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(now, 1 - min(0.995, (1 + step) / (10 + step)))
    return average.eval()
