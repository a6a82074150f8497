"""Sound of the take: modal impacts, shaped noise for water, frying and rubbing, over an honest background.

All sounds are made at the sample rate of the settings; an event's sound starts at the moment of contact.
"""

import numpy as np
from numpy.typing import NDArray

from egoloom.kitchen.body import Stance
from egoloom.kitchen.geometry import Array
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.stage import Event, Performance

# Impact sounds: modes (Hz), decay (s), share of noise burst.
_IMPACTS: dict[str, tuple[tuple[float, ...], float, float]] = {
    "ceramic": ((1450, 2870, 4310, 6100), 0.045, 0.35),
    "plate": ((980, 2130, 3650, 5200, 6900), 0.11, 0.30),
    "bottle": ((720, 1680, 2950, 4700), 0.060, 0.35),
    "handle": ((640, 1500, 2600), 0.020, 0.60),
    "drawer_stop": ((150, 310, 720, 1250), 0.050, 0.70),
    "thud": ((120, 260, 540), 0.060, 0.80),
    "latch": ((520, 1150, 2300), 0.018, 0.60),
    "metal_click": ((2100, 3900, 5600), 0.020, 0.40),
    "board": ((330, 690, 1180, 2300), 0.028, 0.70),
    "board_soft": ((280, 560, 1000), 0.030, 0.75),
    "pot_tick": ((820, 2240, 3980, 5600), 0.080, 0.30),
}
# Lasting sounds: band (Hz) and colour of the noise.
_LOOPS: dict[str, tuple[float, float, float]] = {
    "water": (400, 6500, 0.35),
    "pour": (500, 4200, 0.22),
    "fry": (1500, 7800, 0.16),
    "slide": (120, 1800, 0.22),
    "creak": (300, 1400, 0.12),
    "saw": (900, 5200, 0.20),
    "rub": (700, 4500, 0.16),
    "wipe": (250, 3000, 0.18),
    "scrape": (600, 3600, 0.12),
}


def shaped_noise(rng: np.random.Generator, count: int, rate_hz: int, low_hz: float, high_hz: float) -> Array:
    """Returns Gaussian noise of unit power with soft-edged band limits."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / rate_hz)
    gain = 1 / (1 + (low_hz / np.maximum(frequency, 1.0)) ** 4) / (1 + (frequency / high_hz) ** 4)
    noise = np.fft.irfft(spectrum * gain, count)
    return noise / max(float(np.sqrt((noise**2).mean())), 1e-9)


def impact(rng: np.random.Generator, kind: str, rate_hz: int, brightness: float) -> Array:
    """Returns one impact sound (0.3 s), normalised to a peak of one."""
    modes, decay, burst = _IMPACTS[kind]
    times = np.arange(int(0.3 * rate_hz)) / rate_hz
    sound = np.zeros(len(times))
    for k, mode in enumerate(modes):
        pitch = mode * rng.uniform(0.92, 1.08)
        if pitch < 0.47 * rate_hz:
            sound += (
                rng.uniform(0.5, 1.0)
                * brightness**k
                * np.exp(-times / (decay / (1 + 0.5 * k)))
                * np.sin(2 * np.pi * pitch * times)
            )
    sound += burst * np.exp(-times / 0.006) * rng.standard_normal(len(times))
    return sound / np.abs(sound).max()


def _add(signal: Array, sound: Array, start: int, gain: float) -> None:
    if start >= len(signal):
        return
    begin = max(start, 0)
    part = sound[begin - start : begin - start + len(signal) - begin]
    signal[begin : begin + len(part)] += gain * part


def action_sound(performance: Performance, rng: np.random.Generator, count: int, rate_hz: int, ear: Array) -> Array:
    """Returns the sounds of the action itself as the head-mounted microphone hears them."""
    times = np.arange(count) / rate_hz
    signal = np.zeros(count)
    for event in performance.events:
        if not 0 <= event.time_s < times[-1]:
            continue
        distance = float(np.sqrt(((np.array(event.position) - ear) ** 2).sum()))
        sound = impact(rng, event.kind, rate_hz, rng.uniform(0.55, 0.9))
        _add(
            signal,
            sound,
            round(event.time_s * rate_hz),
            0.55 * event.strength / max(distance, 0.3) * rng.uniform(0.6, 1.2),
        )
    for loop in performance.loops:
        low, high, level = _LOOPS[loop.kind]
        envelope = np.interp(times, times[::64], loop.envelope(times[::64]))
        noise = shaped_noise(rng, count, rate_hz, low * rng.uniform(0.8, 1.25), high * rng.uniform(0.8, 1.25))
        if loop.kind in ("fry", "pour"):
            noise = noise * (0.4 + 0.6 * _crackle(rng, count, rate_hz))
        signal += level * rng.uniform(0.5, 1.1) * envelope * noise
    return signal


def _crackle(rng: np.random.Generator, count: int, rate_hz: int) -> Array:
    """Returns a bumpy envelope of bubbles or splutter."""
    knots = rng.random(max(8, int(count / rate_hz * 45))) ** 2
    return np.interp(np.arange(count), np.linspace(0, count, len(knots)), knots) * 2


def _off_screen(rng: np.random.Generator, count: int, rate_hz: int) -> Array:
    """Returns sounds that someone else makes: a running tap, frying, or crockery out of view."""
    times = np.arange(count) / rate_hz
    signal = np.zeros(count)
    kind = rng.choice(["water", "fry", "impacts", "both"])
    if kind in ("water", "both"):
        low, high, _ = _LOOPS["water"]
        edge = rng.uniform(-1.0, 3.0)
        step = 1 / (1 + np.exp(-np.clip((times - edge) * 20 * rng.choice([-1, 1]), -50, 50)))
        signal += 0.10 * step * shaped_noise(rng, count, rate_hz, low, high * 0.7)
    if kind == "fry":
        signal += 0.07 * shaped_noise(rng, count, rate_hz, 1500, 7000) * (0.4 + 0.6 * _crackle(rng, count, rate_hz))
    if kind in ("impacts", "both"):
        for _ in range(int(rng.integers(1, 5))):
            sound = impact(rng, str(rng.choice(list(_IMPACTS))), rate_hz, 0.6)
            _add(signal, sound, int(rng.uniform(0, count)), rng.uniform(0.08, 0.35))
    return signal


def make_audio(
    settings: KitchenSettings, performance: Performance, stance: Stance, rng: np.random.Generator
) -> NDArray[np.float32] | None:
    """Returns the clip's sound, or None where the microphone was off.

    Over the action lie a hum, room noise and, in some clips, sounds from out of view; ``audio_snr_db`` sets the mean
    level of the action over the room noise.
    """
    noise = settings.noise
    rate_hz = settings.sample_rate_hz
    count = round(settings.duration_s * rate_hz)
    if rng.random() < noise.silent_share:
        return None
    ear = stance.eye(np.array([settings.duration_s / 2]))[0]
    signal = action_sound(performance, rng, count, rate_hz, ear)
    times = np.arange(count) / rate_hz
    if noise.audio_snr_db < 60:
        level = 0.075 * 10 ** (-(noise.audio_snr_db + rng.normal(0, 3)) / 20)
        signal = signal * float(np.exp(rng.normal(0, 0.45)))
        signal = signal + level * shaped_noise(rng, count, rate_hz, 60, rng.uniform(900, 3500))
        signal = signal + 0.3 * level * np.sin(2 * np.pi * rng.choice([50.0, 100.0]) * times + rng.uniform(0, 6.28))
    if rng.random() < noise.background_share:
        signal = signal + _off_screen(rng, count, rate_hz)
    return np.clip(0.5 * signal, -1, 1).astype(np.float32)


def sounding_events(performance: Performance, duration_s: float) -> list[Event]:
    """Returns the events that fall into the clip."""
    return [event for event in performance.events if 0 <= event.time_s < duration_s]
