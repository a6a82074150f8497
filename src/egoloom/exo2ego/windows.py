"""Any length from a model of fixed length: windows that overlap and continue one another."""

from egoloom.errors import UserError


def plan_windows(num_frames: int, window: int, overlap: int, time_stride: int) -> list[tuple[int, int]]:
    """Returns ``(start, stop)`` of windows that cover ``num_frames`` pixel frames.

    Every start is a multiple of the time stride, so that a window's latent frames are latent frames of the clip;
    the last window is moved back rather than shortened.

    Args:
        num_frames: ``s k + 1`` frames.
        window: Frames of one window, ``s k + 1``.
        overlap: Frames that two windows share at least, fewer than the window.
        time_stride: Frames per latent frame, s.

    Raises:
        UserError: If the window cannot be coded, or the overlap leaves nothing new.
    """
    if window < 1 or (window - 1) % time_stride:
        raise UserError(f"A window of {window} frames cannot be coded", allowed=f"{time_stride} k + 1 frames")
    if (num_frames - 1) % time_stride:
        raise ValueError(f"{num_frames} frames are not {time_stride} k + 1")
    if num_frames <= window:
        return [(0, num_frames)]
    hop = (window - overlap) // time_stride * time_stride
    if overlap < 1 or hop < 1:
        raise UserError(
            f"Windows of {window} frames that share {overlap} frames never get ahead",
            allowed=f"an overlap of 1 to {window - time_stride}",
        )
    starts = list(range(0, num_frames - window, hop))
    return [(start, start + window) for start in [*starts, num_frames - window]]


def known_latent_frames(shared_frames: int, time_stride: int) -> int:
    """Returns how many latent frames of a window are fixed by the frames it shares with the one before."""
    return 0 if shared_frames < 1 else (shared_frames - 1) // time_stride + 1
