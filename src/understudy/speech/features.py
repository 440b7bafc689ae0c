"""Log-mel filterbank features and cepstra, in plain torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RATES = (8_000, 16_000)
"""Supported sampling rates in Hz."""
FLOOR = 1e-8
"""Lower bound of a band's energy, about that of 16-bit quantization noise in a window."""


@dataclass(frozen=True)
class Features:
    """Feature extraction settings.

    Attributes:
        rate: sampling rate in Hz.
        bands: number of mel filters, between 20 Hz and the Nyquist frequency.
        window, hop: frame length and frame shift in seconds.
        before, after: left and right context in frames. With the defaults the network's input is 26 frames, and it
            predicts the state of the 21st, as in Hinton, Vinyals and Dean 2015, section 3.

    Example:
        >>> features = Features(rate=8000)
        >>> features.samples, features.step, features.frames(8000)
        (200, 80, 98)
    """

    rate: int = 8_000
    bands: int = 40
    window: float = 0.025
    hop: float = 0.010
    before: int = 20
    after: int = 5

    @property
    def samples(self) -> int:  # per window
        return round(self.window * self.rate)

    @property
    def step(self) -> int:  # samples per hop
        return round(self.hop * self.rate)

    def frames(self, samples: int) -> int:
        """Number of whole windows in a number of samples."""
        return max(0, 1 + (samples - self.samples) // self.step)


def mel(hertz: Tensor) -> Tensor:
    """Hertz to mel, `2595 log10(1 + f / 700)` (The HTK Book, Young et al. 2006, section 5.4).

    >>> mel(torch.tensor([0.0, 1000.0])).round().tolist()
    [0.0, 1000.0]
    """
    return 2595.0 * torch.log10(1.0 + hertz / 700.0)


def mel_filters(bands: int, size: int, rate: int) -> Tensor:
    """(bands, size // 2 + 1) float32 weights of triangular filters for an FFT of `size`, evenly spaced in mel.

    As in HTK and Kaldi, the triangles are linear in mel, peak at 1 and overlap by half, from 20 Hz to the Nyquist
    frequency. Slaney's filters, in contrast, are linear in Hertz and of equal area.

    >>> tuple(mel_filters(bands=40, size=256, rate=8000).shape)
    (40, 129)
    """
    ends = mel(torch.tensor([20.0, rate / 2], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    at = mel(torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size)
    left, center, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (at - left) / (center - left), (right - at) / (right - center)
    return torch.minimum(rising, falling).clamp_min(0).float()


def log_mel(wave: Tensor, features: Features) -> Tensor:
    """(T, bands) float32 log energies of the mel bands in Hamming windows of (n,) samples; T = 1 + (n - window) // hop.

    Example:
        >>> tuple(log_mel(torch.zeros(8000), Features(rate=8000)).shape)
        (98, 40)
    """
    width = features.samples
    assert wave.dim() == 1, wave.shape
    assert len(wave) >= width, "shorter than one window"
    size = 1 << (width - 1).bit_length()
    # torch centers a window shorter than the FFT; with this padding frame t starts at sample t * step
    left = (size - width) // 2
    padded = F.pad(wave.float(), (left, size - width - left))
    window = torch.hamming_window(width, periodic=False, device=wave.device)
    spectrum = torch.stft(padded, size, features.step, width, window, center=False, return_complex=True)
    energy = spectrum.real.square() + spectrum.imag.square()
    filters = mel_filters(features.bands, size, features.rate).to(wave.device)
    return (filters @ energy).clamp_min(FLOOR).log().T.contiguous()


def normalize_loudness(frames: Tensor) -> Tensor:
    """(T, bands) log-mel frames less the 95th percentile of their mean over bands.

    Unlike mean and variance normalization, this does not depend on how much silence an utterance contains.
    """
    return frames - frames.mean(1).quantile(0.95)


def normalized(frames: Tensor) -> Tensor:
    """(T, D) frames with zero mean and unit variance per dimension over the utterance; constant ones become 0.

    Example:
        >>> normalized(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    centered = frames - frames.mean(0)
    return centered / centered.square().mean(0).sqrt().clamp_min(1e-3)


def cepstra(frames: Tensor, count: int = 13) -> Tensor:
    """(T, 3 * count) cepstra of (T, bands) log-mel frames, with deltas and delta-deltas.

    The discrete cosine transform decorrelates neighboring bands, as Gaussians with diagonal covariances assume:
    `c_i = sqrt(2/N) sum_j m_j cos(pi i (j - 1/2) / N)`, i from 0 (The HTK Book, section 5.6). Deltas are those of
    section 5.9 over two frames on either side, with the first and last frame repeated.

    >>> tuple(cepstra(torch.zeros(98, 40)).shape)
    (98, 39)
    """
    bands = frames.shape[1]
    i, j = torch.arange(count).double()[:, None], torch.arange(bands).double()[None]
    basis = math.sqrt(2 / bands) * torch.cos(math.pi * i * (j + 0.5) / bands)
    static = frames @ basis.to(frames).T
    deltas = _deltas(static)
    return torch.cat([static, deltas, _deltas(deltas)], 1)


def _deltas(frames: Tensor) -> Tensor:
    """`sum_k k (c_{t+k} - c_{t-k}) / (2 sum_k k^2)`, k = 1, 2."""
    t = torch.arange(len(frames), device=frames.device)
    last = len(frames) - 1
    sums = torch.zeros_like(frames)
    for k in (1, 2):
        sums += k * (frames[(t + k).clamp_max(last)] - frames[(t - k).clamp_min(0)])
    return sums / 10
