"""Features against the published formulas, windows against slices, and sound files good and bad."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.data import Unreadable, open_source
from understudy.data.formats.frames import FRAMES, Sequences, WindowSource
from understudy.data.loader import BatchLoader, in_order
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.speech.audio import read_audio, validate_audio
from understudy.speech.features import FLOOR, Features, cepstra, log_mel, mel_filters, normalized

if TYPE_CHECKING:
    from stand_ins import Tones

CPU = torch.device("cpu")


# ---- the formulas


def by_the_book(samples: np.ndarray, rate: int) -> np.ndarray:
    """Log Mel bands as The HTK Book (sections 5.2 and 5.4) and Kaldi have them, a window and a bin at a time."""
    width, step, size = int(0.025 * rate), int(0.010 * rate), {8_000: 256, 16_000: 512}[rate]
    n = np.arange(width)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * n / (width - 1))

    def in_mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    low, high = in_mel(20), in_mel(rate / 2)
    corners = [low + i * (high - low) / 41 for i in range(42)]
    rows = []
    for start in range(0, len(samples) - width + 1, step):
        piece = samples[start : start + width] * hamming
        power = [abs(np.sum(piece * np.exp(-2j * np.pi * k * n / size))) ** 2 for k in range(size // 2 + 1)]
        bands = []
        for left, center, right in zip(corners, corners[1:], corners[2:], strict=False):
            total = 0.0
            for k, energy in enumerate(power):
                at = in_mel(k * rate / size)
                if left < at <= center:
                    total += energy * (at - left) / (center - left)
                elif center < at < right:
                    total += energy * (right - at) / (right - center)
            bands.append(np.log(max(total, FLOOR)))
        rows.append(bands)
    return np.array(rows)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_log_mel_bands_are_the_books(rate: int, tones: Tones) -> None:
    samples = tones.wave("three", rate=rate)[: rate // 16].astype(np.float64)
    found = log_mel(torch.from_numpy(samples), Features(rate=rate))
    np.testing.assert_allclose(found.numpy(), by_the_book(samples, rate), atol=2e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_every_band_hears_something_and_neighbors_add_up_to_one(rate: int) -> None:
    filters = mel_filters(40, {8_000: 256, 16_000: 512}[rate], rate)
    assert bool((filters.sum(1) > 0).all())
    peaks = filters.argmax(1)
    inside = filters.sum(0)[peaks[0] + 1 : peaks[-1]]
    torch.testing.assert_close(inside, torch.ones_like(inside), atol=1e-5, rtol=0)


def test_a_tone_is_loudest_in_the_band_around_it() -> None:
    t = torch.arange(8_000) / 8_000
    bands = log_mel(torch.sin(2 * torch.pi * 1_000 * t), Features()).mean(0)
    mel = 2595 * np.log10(1 + 1_000 / 700)
    low, high = 2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 4_000 / 700)
    assert int(bands.argmax()) == round((mel - low) / (high - low) * 41 - 1)


@given(st.integers(200, 3_000))
@settings(max_examples=20, deadline=None)
def test_one_frame_for_each_whole_window(samples: int) -> None:
    features = Features()
    found = log_mel(torch.randn(samples), features)
    assert len(found) == features.frames(samples) == 1 + (samples - 200) // 80


def test_normalized_frames_have_no_mean_and_unit_variance() -> None:
    frames = normalized(torch.randn(50, 40) * 7 + 3)
    torch.testing.assert_close(frames.mean(0), torch.zeros(40), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.square().mean(0), torch.ones(40), atol=1e-4, rtol=0)
    assert bool(torch.isfinite(normalized(torch.ones(5, 40))).all())


def test_cepstra_and_differences() -> None:
    from scipy.fft import dct

    frames = torch.randn(9, 40, dtype=torch.float64)
    found = cepstra(frames)
    static = np.asarray(dct(frames.numpy(), axis=1, norm="ortho"))[:, :13]
    static[:, 0] *= 2**0.5  # the book's first cepstrum is not scaled down
    np.testing.assert_allclose(found[:, :13], static, atol=1e-9)
    at = 4
    expected = (found[at + 1, :13] - found[at - 1, :13] + 2 * (found[at + 2, :13] - found[at - 2, :13])) / 10
    torch.testing.assert_close(found[at, 13:26], expected)
    ramp = cepstra(torch.arange(20.0)[:, None].expand(20, 40))
    torch.testing.assert_close(ramp[5:15, 13], ramp[6:16, 0] - ramp[5:15, 0], atol=1e-3, rtol=1e-3)


# ---- windows


def made_up(lengths: tuple[int, ...] = (7, 30, 3), dimension: int = 4) -> Sequences:
    t = sum(lengths)
    starts = torch.tensor([0, *np.cumsum(lengths)])
    targets = torch.arange(t) % 3
    return Sequences(torch.randn(t, dimension), starts, targets, torch.arange(len(lengths)) % 3, ("a", "b", "c"), 20, 5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 25), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_windows_are_slices_of_their_own_sequence_with_its_ends_repeated(
    lengths: list[int], before: int, after: int
) -> None:
    t = sum(lengths)
    frames = torch.arange(t * 2.0).view(t, 2)
    starts = torch.tensor([0, *np.cumsum(lengths)])
    held = Sequences(frames, starts, torch.zeros(t).long(), torch.zeros(len(lengths)).long(), ("a",), before, after)
    found = held.windows()[torch.arange(t)].view(t, before + 1 + after, 2)
    expected = []
    for part in frames.split(lengths):
        padded = torch.cat([part[:1].expand(before, 2), part, part[-1:].expand(after, 2)])
        expected += [padded[i : i + before + 1 + after] for i in range(len(part))]
    assert torch.equal(found, torch.stack(expected))


def test_the_frame_that_is_answered_for_is_the_21st_of_26() -> None:
    held = made_up((60,))
    window = held.windows()[torch.tensor([33])].view(26, 4)
    assert torch.equal(window[20], held.frames[33])


def test_frames_are_a_data_set_like_any_other(tmp_path: Path) -> None:
    made_up().save(tmp_path / FRAMES)
    splits = open_source(tmp_path)
    assert isinstance(splits.train, WindowSource)
    assert [len(p) for p in (splits.train, splits.validation, splits.test) if p is not None] == [7, 30, 3]
    rows = torch.tensor([6, 0, 3])
    part = splits.train.subset(rows)
    whole = next(in_order(splits.train, 100, CPU))
    some = next(in_order(part, 100, CPU))
    assert isinstance(whole.inputs, torch.Tensor)
    assert isinstance(some.inputs, torch.Tensor)
    assert torch.equal(some.inputs, whole.inputs[rows])
    assert torch.equal(some.ids, whole.ids[rows])
    assert some.targets is not None
    assert whole.targets is not None
    assert torch.equal(some.targets, whole.targets[rows])


def test_training_batches_cut_the_same_windows_and_store_none() -> None:
    held = made_up((40, 50), dimension=40)
    source = held.source("tones", "train")
    assert source is not None
    batches = BatchLoader(source, Views(seed=3), 16, 3, CPU)
    plain = next(in_order(source, 100, CPU))
    assert isinstance(plain.inputs, torch.Tensor)
    seen = []
    for batch in batches.epoch(0):
        assert isinstance(batch.inputs, torch.Tensor)
        torch.testing.assert_close(batch.inputs, plain.inputs[batch.ids])
        seen.append(batch.ids)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(40))
    assert source.inputs.frames.data_ptr() == held.frames.data_ptr()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": torch.zeros(39).long()}, "40 frames but 39 targets"),
        ({"starts": torch.tensor([0, 7, 41])}, "do not add up to its 40 frames"),
        ({"parts": torch.tensor([0])}, "to a split"),
        ({"targets": torch.full((40,), 3)}, "outside of its 3"),
    ],
)
def test_frames_and_alignment_that_do_not_belong_together(change: dict[str, torch.Tensor], words: str) -> None:
    from dataclasses import replace

    with pytest.raises(UnderstudyError, match=words):
        replace(made_up(), **change).check("tones")


def test_a_damaged_file_of_frames(tmp_path: Path) -> None:
    (tmp_path / FRAMES).write_bytes(b"nonsense" * 20)
    with pytest.raises(UnderstudyError, match="prepare it again"):
        open_source(tmp_path)


# ---- sound files


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_sound_is_read(suffix: str, rate: int, tmp_path: Path, tones: Tones) -> None:
    samples = tones.wave("two", rate=rate)
    with open(tones.write(tmp_path / f"x.{suffix}", samples, rate), "rb") as file:
        sound = read_audio(file)
    assert sound.rate == rate
    assert not sound.clipped
    assert len(sound.wave) == len(samples)
    if suffix != "ogg":
        np.testing.assert_allclose(sound.wave, samples, atol=1e-4)


def silent(n: int = 4_000) -> np.ndarray:
    return np.zeros((n, 1), np.float32)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (lambda wave: silent(0), 8_000, "it is empty"),
        (lambda wave: silent(), 8_000, "it is silent"),
        (lambda wave: silent() + 0.25, 8_000, "it is silent"),
        (lambda wave: np.repeat(wave[:, None], 2, 1), 8_000, "it has 2 channels"),
        (lambda wave: wave[:150, None], 8_000, "less than one window of 25 ms"),
        (lambda wave: wave[:, None], 44_100, "its sampling rate is 44,100 Hz; resample it to 8,000 or 16,000"),
        (lambda wave: np.full((4_000, 1), np.nan, np.float32), 8_000, "NaN or infinite"),
    ],
)
def test_sound_that_cannot_be_used(
    samples: Callable[[np.ndarray], np.ndarray], rate: int, words: str, tones: Tones
) -> None:
    with pytest.raises(Unreadable, match=words):
        validate_audio(samples(tones.wave("one")), rate)


def test_what_is_not_audio() -> None:
    with pytest.raises(Unreadable, match="not audio"):
        read_audio(io.BytesIO(b"these are words, not sounds" * 10))
    with pytest.raises(Unreadable, match="not audio"):
        read_audio(io.BytesIO(b""))


def test_clipped_sound_is_used_and_said(tones: Tones) -> None:
    loud = (4 * tones.wave("one")).clip(-1, 1)
    file = io.BytesIO()
    soundfile.write(file, loud, 8_000, format="WAV")
    file.seek(0)
    assert read_audio(file).clipped
    once = tones.wave("one")
    once[100] = 1.0
    assert not validate_audio(once[:, None], 8_000).clipped, "one sample at full scale is no plateau"
