"""The networks learn what they are for, on the smallest task that shows it."""

import time

import pytest
import torch
import torch.nn.functional as F

from egoloom.models import create_model


def moving_squares(num_clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square that goes left (0) or right (1); any single frame looks the same for both."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_clips) % 2
    frames = torch.zeros(num_clips, 4, 3, 32, 32, dtype=torch.uint8)
    # Clips come in pairs with the same frames in opposite order.
    tops = torch.randint(2, 22, (num_clips // 2,), generator=g).repeat_interleave(2)
    for clip in range(num_clips):
        for step in range(4):
            place = step if labels[clip] == 1 else 3 - step
            left, top = 2 + 6 * place, int(tops[clip])
            frames[clip, step, :, top : top + 8, left : left + 8] = 255
    return frames, labels


def train(model: torch.nn.Module, steps: int) -> float:
    """Trains on motion direction; returns accuracy on other clips."""
    frames, labels = moving_squares(32, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model({"rgb": frames})["direction"], labels).backward()
        optimiser.step()
    model.eval()
    frames, labels = moving_squares(40, seed=1)
    with torch.no_grad():
        return float((model({"rgb": frames})["direction"].argmax(-1) == labels).float().mean())


@pytest.mark.parametrize(("shift", "learns"), [("causal", True), ("bidirectional", True), ("none", False)])
def test_temporal_shift_learns_a_direction_that_single_frames_do_not_hold(shift, learns):
    torch.manual_seed(0)
    model = create_model("edge_tiny", num_classes={"direction": 2}, temporal_shift=shift)
    accuracy = train(model, steps=30)
    assert accuracy > 0.85 if learns else abs(accuracy - 0.5) < 0.1


def test_activation_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    frames = {"rgb": torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)}
    options = {"num_classes": {"verb": 3}, "drop_path": 0.0}
    plain = create_model("video_swin_tiny_test", **options).train()
    saving = create_model("video_swin_tiny_test", **options, activation_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        model(frames)["verb"].square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_a_training_step_of_the_smallest_student_is_cheap():
    model = create_model("edge_tiny", num_classes={"verb": 10}).train()
    frames = {"rgb": torch.randint(0, 256, (16, 8, 3, 64, 64), dtype=torch.uint8)}
    times_s = []
    for _ in range(6):
        start_s = time.process_time()
        model(frames)["verb"].square().sum().backward()
        times_s.append(time.process_time() - start_s)
    # About 0.03 CPU seconds on an idle core; a depth-wise net of this size takes ten times that.
    assert min(times_s) < 0.5
