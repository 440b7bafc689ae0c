"""Speech corpora: layouts, parts, connected strings, and error messages."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from understudy.data.formats.frames import FRAMES
from understudy.data.formats.records import FileRecord
from understudy.errors import UnderstudyError
from understudy.speech.corpus import Recording, open_corpus
from understudy.speech.preparation import SPEECH, read_prepared
from understudy.speech.strings import join, plan_strings
from understudy.verbs.speech import prepare

if TYPE_CHECKING:
    from stand_ins import Tones


def listing(recordings: list[Recording]) -> dict[str, tuple[str, str, str]]:
    return {one.name: (" ".join(one.words), one.speaker, one.part) for one in recordings}


# ---- layouts


def test_the_free_spoken_digits_test_on_the_first_five_takes(tmp_path: Path, tones: Tones) -> None:
    found = listing(open_corpus(tones.corpus(tmp_path / "d", takes=14)))
    assert len(found) == 4 * 2 * 14
    assert found["2_bob_13.flac"][:2] == ("two", "bob")
    for name, (_, _, part) in found.items():
        assert (part == "test") == (int(name.split("_")[2].split(".")[0]) < 5)
    held = [name for name, (_, _, part) in found.items() if part == "validation"]
    assert 0 < len(held) < 20


def test_a_held_out_speaker_is_all_of_the_test_part(tmp_path: Path, tones: Tones) -> None:
    found = open_corpus(tones.corpus(tmp_path / "d"), hold_out=("bob",))
    assert all((one.part == "test") == (one.speaker == "bob") for one in found)
    with pytest.raises(UnderstudyError, match="no speaker 'bop'; did you mean 'bob'"):
        open_corpus(tmp_path / "d", hold_out=("bop",))
    with pytest.raises(UnderstudyError, match="has only the speakers ada, bob"):
        open_corpus(tmp_path / "d", hold_out=("bob", "ada"))


def test_a_zip_is_the_folder_in_it(tmp_path: Path, tones: Tones) -> None:
    folder = tones.corpus(tmp_path / "d", takes=8)
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, f"spoken/{path.name}")
    assert listing(open_corpus(tmp_path / "d.zip")) == listing(open_corpus(folder))


def test_a_kaldi_folder(tmp_path: Path, tones: Tones) -> None:
    lines, scp, spk = [], [], []
    for take in range(30):
        tones.write(tmp_path / "audio" / f"u{take:02d}.wav", tones.wave("one", take=take))
        lines.append(f"u{take:02d} one two")
        spk.append(f"u{take:02d} speaker{take % 2}")
    tones.write(tmp_path / "elsewhere.wav", tones.wave("one"))
    lines.append("far one two")
    scp.append("far elsewhere.wav")
    for name, own in (("text", lines), ("wav.scp", scp), ("utt2spk", spk)):
        (tmp_path / name).write_text("\n".join(own) + "\n")
    found = open_corpus(tmp_path)
    assert len(found) == 31
    assert {one.words for one in found} == {("one", "two")}
    assert {one.speaker for one in found} == {"speaker0", "speaker1", ""}
    assert set(Counter(one.part for one in found)) == {"train", "validation", "test"}
    assert all(one.record.open().read(4) == b"RIFF" for one in found)
    (tmp_path / "wav.scp").write_text("far sox x.wav -t wav - |\n")
    with pytest.raises(UnderstudyError, match="commands are not run"):
        open_corpus(tmp_path)
    (tmp_path / "wav.scp").write_text("")
    with pytest.raises(UnderstudyError, match="has 'far', for which there is no"):
        open_corpus(tmp_path)


def test_kaldi_folders_of_parts(tmp_path: Path, tones: Tones) -> None:
    for part, count in (("train", 12), ("dev", 3), ("test", 4)):
        for take in range(count):
            tones.write(tmp_path / part / f"{part}{take}.wav", tones.wave("one", take=take))
        (tmp_path / part / "text").write_text("".join(f"{part}{take} one\n" for take in range(count)))
    assert Counter(one.part for one in open_corpus(tmp_path)) == {"train": 12, "validation": 3, "test": 4}


def test_a_table(tmp_path: Path, tones: Tones) -> None:
    rows = ["path,text,speaker,split"]
    for take in range(12):
        tones.write(tmp_path / f"{take}.wav", tones.wave("one", take=take))
        rows.append(f"{take}.wav,one two one,s{take % 3},{'val' if take == 3 else 'test' if take > 9 else 'train'}")
    (tmp_path / "said.csv").write_text("\n".join(rows))
    found = listing(open_corpus(tmp_path / "said.csv"))
    assert found["3.wav"] == ("one two one", "s0", "validation")
    assert listing(open_corpus(tmp_path)) == found, "a folder with one table is that table"
    (tmp_path / "said.csv").write_text("file,words\n1.wav,one\n")
    with pytest.raises(UnderstudyError, match="needs the columns path and text"):
        open_corpus(tmp_path / "said.csv")


def test_speech_commands_as_torchaudio_keeps_them(tmp_path: Path, tones: Tones) -> None:
    home = tmp_path / "SpeechCommands" / "speech_commands_v0.02"
    names = []
    for word in ("yes", "no"):
        for take in range(6):
            names.append(f"{word}/{take:08x}_nohash_0.wav")
            tones.write(home / names[-1], tones.wave("one", take=take), 16_000)
    tones.write(home / "_background_noise_" / "hum.wav", tones.wave("two"), 16_000)
    (home / "testing_list.txt").write_text("\n".join((names[0], names[6])))
    (home / "validation_list.txt").write_text("\n".join((names[1], names[7])))
    for place in (tmp_path, home):
        found = open_corpus(place)
        assert Counter(one.part for one in found) == {"train": 8, "validation": 2, "test": 2}
        assert {one.words for one in found} == {("yes",), ("no",)}
        assert found[0].speaker == "00000000"


def test_the_real_digits(spoken_digits: Path) -> None:
    found = open_corpus(spoken_digits)
    assert len(found) == 2_000
    parts = Counter(one.part for one in found)
    assert parts["test"] == 200
    assert 140 < parts["validation"] < 220
    assert {one.speaker for one in found} == {"george", "jackson", "lucas", "yweweler"}


# ---- parts


def test_parts_do_not_change_when_others_come(tmp_path: Path, tones: Tones) -> None:
    for take in range(60):
        tones.write(tmp_path / "w" / "one" / f"{take}.wav", tones.wave("one", take=take))
        tones.write(tmp_path / "w" / "two" / f"{take}.wav", tones.wave("two", take=take))
    before = listing(open_corpus(tmp_path / "w"))
    tones.write(tmp_path / "w" / "one" / "later.wav", tones.wave("one", take=99))
    after = listing(open_corpus(tmp_path / "w"))
    assert {name: after[name] for name in before} == before
    assert listing(open_corpus(tmp_path / "w", seed=1)) != after


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at, tones: None, "there is no folder or file"),
        (lambda at, tones: at.mkdir(), r"has no .wav, .flac, .ogg files; use a folder with"),
        (lambda at, tones: tones.write(at / "call.wav", tones.wave("one")), "has no transcript for"),
        (lambda at, tones: tones.corpus(at, takes=5, words=("zero",)), "too few for a train part"),
    ],
)
def test_what_is_no_corpus(make: Callable[[Path, Tones], object], words: str, tmp_path: Path, tones: Tones) -> None:
    make(tmp_path / "c", tones)
    with pytest.raises(UnderstudyError, match=words):
        open_corpus(tmp_path / "c")


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "c.zip").write_text("no")
    with pytest.raises(UnderstudyError, match=r"neither a \.csv nor a valid zip"):
        open_corpus(tmp_path / "c.zip")


def test_unknown_words_in_a_transcript(tmp_path: Path, tones: Tones) -> None:
    rows = ["path,text,split"]
    for take in range(30):
        tones.write(tmp_path / f"{take}.wav", tones.wave("one", take=take))
        rows.append(f"{take}.wav,{'won' if take == 29 else 'one'},{'test' if take > 24 else 'train'}")
    (tmp_path / "said.csv").write_text("\n".join(rows))
    with pytest.raises(UnderstudyError, match=r"29.wav, in the test part, has the word 'won'.*did you mean 'one'"):
        open_corpus(tmp_path / "said.csv")
    (tmp_path / "said.csv").write_text("\n".join([*rows[:-1], "29.wav,,test"]))
    with pytest.raises(UnderstudyError, match=r"no words for 29\.wav"):
        open_corpus(tmp_path / "said.csv")


# ---- strings


def recorded(speakers: str = "ab", count: int = 23) -> list[Recording]:
    record = FileRecord("", "")
    return [
        Recording(f"{speaker}{i}", (str(i % 10),), speaker, record, "test" if i < 5 else "train")
        for speaker in speakers
        for i in range(count)
    ]


def test_strings_use_each_recording_of_their_part_once_and_one_speaker_each() -> None:
    plans = plan_strings(recorded(), 0, "train")
    used = [one.name for plan in plans for one in plan.recordings]
    assert len(used) == len(set(used))
    assert len(used) >= 2 * (18 - 2)
    for plan in plans:
        assert 3 <= len(plan.recordings) <= 7
        assert len({one.speaker for one in plan.recordings}) == 1
        assert {one.part for one in plan.recordings} == {"train"}
        assert len(plan.pauses) == len(plan.recordings) + 1
        assert all(0.05 <= pause <= 0.35 for pause in plan.pauses)


def test_strings_are_a_function_of_the_seed_and_of_the_speakers_own_recordings() -> None:
    plans = plan_strings(recorded(), 0, "train")
    assert plan_strings(recorded(), 0, "train") == plans
    assert plan_strings(recorded(), 1, "train") != plans
    more = plan_strings(recorded("abc"), 0, "train")
    assert [plan for plan in more if plan.recordings[0].speaker != "c"] == plans


def test_a_string_is_its_recordings_with_quiet_pauses_between(tones: Tones) -> None:
    plan = plan_strings(recorded(), 0, "train")[0]
    waves = {one.name: torch.from_numpy(tones.wave("one", take=i)) for i, one in enumerate(plan.recordings)}
    joined = join(plan, waves, 8_000)
    pauses = [round(pause * 8_000) for pause in plan.pauses]
    assert len(joined) == sum(pauses) + sum(map(len, waves.values()))
    first = waves[plan.recordings[0].name]
    assert torch.equal(joined[pauses[0] + 100 : pauses[0] + len(first) - 100], first[100:-100])
    quiet = joined[: pauses[0]]
    assert 0 < float(quiet.square().mean().sqrt()) < 0.5 * float(first.square().mean().sqrt())
    assert torch.equal(joined, join(plan, waves, 8_000))
    assert not np.array_equal(quiet[:300], joined[-300:]), "pauses differ"


# ---- prepared


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tones: Tones) -> Path:
    return tones.corpus(tmp_path_factory.mktemp("corpus") / "digits", takes=12)


def test_a_prepared_folder_has_frames_and_states(corpus: Path, tmp_path: Path) -> None:
    folder, prepared = prepare(corpus, tmp_path / "p", states=3, mixtures=1)
    again, sequences = read_prepared(folder)
    assert again.to_json() == prepared.to_json()
    assert json.loads(json.dumps(again.to_json())) == json.loads((folder / SPEECH).read_text())
    assert sequences.classes == prepared.models.names
    assert len(sequences.classes) == 4 * 3 + 3
    assert len(sequences.parts) == len(prepared.utterances)
    for i, one in enumerate(prepared.utterances):
        states = sequences.targets[sequences.starts[i] : sequences.starts[i + 1]]
        spoken = states[states < 12]
        heads = [s for before, s in zip([-1, *spoken.tolist()], spoken.tolist(), strict=False) if s != before]
        assert heads == [s for word in one.words for s in prepared.models.of_word(word).tolist()], one.name
        if one.kind == "connected":
            assert int((states >= 12).sum()) > 5, "pauses are silence"
    means = sequences.frames[sequences.starts[0] : sequences.starts[1]].mean(0)
    torch.testing.assert_close(means, torch.zeros(40), atol=1e-4, rtol=0)


def test_the_same_corpus_is_prepared_the_same(corpus: Path, tmp_path: Path) -> None:
    for name in "ab":
        prepare(corpus, tmp_path / name, states=3, mixtures=1)
    assert (tmp_path / "a" / FRAMES).read_bytes() == (tmp_path / "b" / FRAMES).read_bytes()
    with pytest.raises(UnderstudyError, match="holds prepared speech; choose another --to"):
        prepare(corpus, tmp_path / "a")


def test_unusable_recordings_are_skipped_with_their_reasons(corpus: Path, tmp_path: Path, tones: Tones) -> None:
    place = tmp_path / "c"
    tones.corpus(place, takes=12)
    tones.write(place / "0_ada_30.flac", np.zeros(4_000, np.float32))
    tones.write(place / "0_ada_31.flac", np.stack([tones.wave("zero")] * 2, 1))
    tones.write(place / "0_ada_32.flac", tones.wave("zero")[:100])
    tones.write(place / "0_ada_33.flac", tones.wave("zero"), 44_100)
    tones.write(place / "0_ada_34.flac", (5 * tones.wave("zero")).clip(-1, 1))
    tones.write(place / "0_ada_35.flac", tones.wave("zero")[:300])
    (place / "0_ada_36.flac").write_bytes(b"")
    _, prepared = prepare(place, tmp_path / "p", states=3, mixtures=1, strings=False)
    reasons = {name[6:8]: why for name, why in prepared.skipped.items()}
    assert set(reasons) == {"30", "31", "32", "33", "35", "36"}
    assert "silent" in reasons["30"]
    assert "2 channels" in reasons["31"]
    assert "less than one window" in reasons["32"]
    assert "44,100 Hz" in reasons["33"]
    assert "too short for its words" in reasons["35"]
    assert "not audio" in reasons["36"]
    assert prepared.clipped == ("0_ada_34.flac",)


def test_a_corpus_of_which_nothing_is_left(tmp_path: Path, tones: Tones) -> None:
    for number in range(2):
        for take in range(30):
            tones.write(tmp_path / "c" / f"{number}_ada_{take}.flac", np.zeros(4_000, np.float32))
    with pytest.raises(UnderstudyError, match=r"no recording of .* is usable; .*: it is silent"):
        prepare(tmp_path / "c", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_two_rates_in_one_corpus(corpus: Path, tmp_path: Path, tones: Tones) -> None:
    tones.corpus(tmp_path / "c", takes=12)
    tones.write(tmp_path / "c" / "0_ada_30.flac", tones.wave("zero", rate=16_000), 16_000)
    with pytest.raises(UnderstudyError, match=r"at 8,000 Hz and .* at 16,000"):
        prepare(tmp_path / "c", tmp_path / "p")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / SPEECH).unlink(), "is not prepared speech: it has no speech.json"),
        (lambda folder: (folder / SPEECH).write_text("{"), "speech.json is damaged"),
    ],
)
def test_a_damaged_prepared_folder(damage: object, words: str, corpus: Path, tmp_path: Path) -> None:
    folder, _ = prepare(corpus, tmp_path / "p", states=2, mixtures=1, strings=False)
    assert callable(damage)
    damage(folder)
    with pytest.raises(UnderstudyError, match=words):
        read_prepared(folder)
