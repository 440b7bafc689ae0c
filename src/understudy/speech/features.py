"""Log Mel filterbanks and cepstra, in torch alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RATES = (8_000, 16_000)
"""Samples a second that are understood."""
FLOOR = 1e-8
"""Least energy in a band: about what rounding to 16 bits leaves in a window."""


@dataclass(frozen=True)
class Features:
    """How sound becomes frames.

    Attributes:
        rate: samples a second.
        bands: Mel filters, over 20 Hz to half the rate.
        window, hop: seconds of a frame, and from one to the next.
        before, after: frames of context on either side; with 20 and 5 a net sees 26 and answers for the 21st, as in
            Hinton, Vinyals and Dean 2015, section 3.
    """

    rate: int = 8_000
    bands: int = 40
    window: float = 0.025
    hop: float = 0.010
    before: int = 20
    after: int = 5

    @property
    def samples(self) -> int:
        """Of a window."""
        return round(self.window * self.rate)

    @property
    def step(self) -> int:
        """Samples from a window to the next."""
        return round(self.hop * self.rate)

    def frames(self, samples: int) -> int:
        """Whole windows in so many samples."""
        return max(0, 1 + (samples - self.samples) // self.step)

    def seconds(self, frame: int) -> float:
        """When a frame begins, frames being `hop` apart."""
        return frame * self.hop


def mel(hertz: Tensor) -> Tensor:
    """`2595 log10(1 + f / 700)`: The HTK Book (Young et al. 2006), section 5.4."""
    return 2595.0 * torch.log10(1.0 + hertz / 700.0)


def mel_filters(bands: int, size: int, rate: int, low: float = 20.0) -> Tensor:
    """(bands, size // 2 + 1) float32 weights of triangles whose corners are evenly spaced in Mel.

    As in HTK and Kaldi a triangle's sides are straight over Mel, its peak is 1, and neighbours overlap by half. They
    are not Slaney's filters, which are straight over Hertz and all of one area.

    Args:
        size: points of the Fourier transform.
        low: Hertz where the first filter begins; the last one ends at half the rate.
    """
    ends = mel(torch.tensor([low, rate / 2], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    at = mel(torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (at - left) / (centre - left), (right - at) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0).float()


def log_mel(wave: Tensor, features: Features) -> Tensor:
    """(T, bands) float32: the log of the Mel bands' energies in Hamming windows.

    Args:
        wave: (n,) samples in [-1, 1]; T = 1 + (n - window) // hop, so n must fill one window.
    """
    width = features.samples
    assert wave.dim() == 1, wave.shape
    assert len(wave) >= width, "not even one window"
    size = 1 << (width - 1).bit_length()
    # torch centres a window that is shorter than the transform; with these zeros frame t begins at sample t * step
    left = (size - width) // 2
    padded = F.pad(wave.float(), (left, size - width - left))
    window = torch.hamming_window(width, periodic=False, device=wave.device)
    spectrum = torch.stft(
        padded, size, features.step, width, window, center=False, return_complex=True
    )  # (size / 2 + 1, T)
    energy = spectrum.real.square() + spectrum.imag.square()
    filters = mel_filters(features.bands, size, features.rate).to(wave.device)
    return (filters @ energy).clamp_min(FLOOR).log().T.contiguous()


def levelled(frames: Tensor) -> Tensor:
    """(T, bands) log Mel frames as if all utterances were as loud: less the mean band of the loudest twentieth.

    What is quiet stays quiet, as it does not where each utterance is normalised, with silence in it or without.
    """
    return frames - frames.mean(1).quantile(0.95)


def normalised(frames: Tensor) -> Tensor:
    """(T, D) frames with zero mean and unit variance in each dimension over the utterance; a constant one is 0."""
    centred = frames - frames.mean(0)
    return centred / centred.square().mean(0).sqrt().clamp_min(1e-3)


def cepstra(frames: Tensor, count: int = 13) -> Tensor:
    """(T, 3 * count): cepstra of log Mel frames (T, bands), with their first and second differences.

    The discrete cosine transform takes most of the correlation out of neighbouring bands, which a Gaussian with a
    diagonal covariance cannot have. `c_i = sqrt(2/N) sum_j m_j cos(pi i (j - 1/2) / N)`, i from 0 (The HTK Book,
    section 5.6); differences are those of section 5.9 over two frames on either side, the ends repeated.
    """
    bands = frames.shape[1]
    i, j = torch.arange(count).double()[:, None], torch.arange(bands).double()[None]
    basis = math.sqrt(2 / bands) * torch.cos(math.pi * i * (j + 0.5) / bands)
    static = frames @ basis.to(frames).T
    first = _differences(static)
    return torch.cat([static, first, _differences(first)], 1)


def _differences(frames: Tensor) -> Tensor:
    """`sum_k k (c_{t+k} - c_{t-k}) / (2 sum_k k^2)`, k = 1, 2."""
    t = torch.arange(len(frames), device=frames.device)
    last = len(frames) - 1
    sums = torch.zeros_like(frames)
    for k in (1, 2):
        sums += k * (frames[(t + k).clamp_max(last)] - frames[(t - k).clamp_min(0)])
    return sums / 10
