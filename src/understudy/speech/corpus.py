"""Reading speech corpora: recordings and transcripts in a folder, zip file or CSV, recognized by layout."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

from understudy.data.formats.index import parse_split, path_ids
from understudy.data.formats.records import BytesRecord, FileRecord, ZipRecord, escape_name, open_zip
from understudy.errors import UnderstudyError, nearest
from understudy.randomness import name_key, uniform

SUFFIXES = (".wav", ".flac", ".ogg")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_FILE = re.compile(r"(\d)_(.+)_(\d+)")
_TEST_INDEX = 5  # Free Spoken Digit Dataset: recordings 0 to 4 of a digit and speaker are the test set
_TEST, _VALIDATION = 0.2, 0.1
_LAYOUTS = (
    "use a folder with a file `text` of lines UTTERANCE WORD ..., a .csv with the columns path and text, one folder "
    "of recordings per word, or files named DIGIT_SPEAKER_INDEX.flac"
)


@dataclass(frozen=True)
class Recording:
    """An audio file and its transcript."""

    name: str  # unique within the corpus
    words: tuple[str, ...]
    speaker: str  # empty if unknown
    record: BytesRecord
    part: str = ""  # "train", "validation" or "test"; empty if the corpus has no predefined split


def open_corpus(place: Path, *, hold_out: Sequence[str] = (), seed: int = 0) -> list[Recording]:
    """List the recordings of a corpus, sorted by name and assigned to parts.

    Supported layouts: Kaldi data folders (`text`, optionally wav.scp and utt2spk), or subfolders train and test of
    them; a CSV; one folder per word, with the test and validation lists of Speech Commands if present; and the Free
    Spoken Digit Dataset, whose recordings 0 to 4 are its test set. Folders may be zipped.

    Without a predefined test set, a fifth of the recordings becomes the test part; without a validation set, a tenth
    of the training recordings is used. The split hashes names, so that adding recordings does not move others.

    Args:
        hold_out: speakers that form the test part; all other recordings are for training.

    Raises:
        UnderstudyError: The layout is not recognized, or the corpus is incomplete.
    """
    name = escape_name(os.fspath(place))
    if not place.exists():
        raise UnderstudyError(f"there is no folder or file {name}; {_LAYOUTS}")
    found = _table(place) if place.is_file() and place.suffix.lower() == ".csv" else _layout(name, place)
    found.sort(key=lambda one: one.name)
    path_ids(name, [one.name for one in found])  # raises on duplicate names
    for one in found:
        if not one.words:
            raise UnderstudyError(
                f"{name} has no words for {escape_name(one.name)}; add a transcript, or remove the recording"
            )
    if hold_out:
        found = _hold_out(name, found, hold_out)
    return _split(name, found, seed)


def _hold_out(name: str, found: list[Recording], speakers: Sequence[str]) -> list[Recording]:
    known = {one.speaker for one in found if one.speaker}
    for speaker in speakers:
        if speaker not in known:
            raise UnderstudyError(f"{name} has no speaker {speaker!r}{nearest(speaker, known)}")
    if known <= set(speakers):
        raise UnderstudyError(f"{name} has only the speakers {', '.join(sorted(known))}; hold out fewer")
    return [replace(one, part="test" if one.speaker in speakers else "") for one in found]


def _split(name: str, found: list[Recording], seed: int) -> list[Recording]:
    """Draw the parts that the corpus does not define."""
    draws = uniform(path_ids(name, [one.name for one in found]), seed ^ name_key("speech parts")).tolist()
    has = {one.part for one in found}
    parts = []
    for one, draw in zip(found, draws, strict=True):
        part = one.part or "train"
        if one.part == "" and "test" not in has and draw >= 1 - _TEST:
            part = "test"
        elif part == "train" and "validation" not in has and draw < _VALIDATION:
            part = "validation"
        parts.append(replace(one, part=part))
    for part in ("train", "validation", "test"):
        if not any(one.part == part for one in parts):
            raise UnderstudyError(
                f"{name} has {len(found):,} recordings, too few for a {part} part; use at least ten of each word"
            )
    vocabulary = {word for one in parts if one.part == "train" for word in one.words}
    for one in parts:
        for word in one.words:
            if word not in vocabulary:
                raise UnderstudyError(
                    f"the transcript of {escape_name(one.name)}, in the {one.part} part, has the word {word!r}, which "
                    f"no training recording of {name} has{nearest(word, vocabulary)}; fix it, or add training "
                    "recordings"
                )
    return parts


# --- layouts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    """Relative paths of the files in a folder or zip, and a record for each."""

    name: str
    files: list[str]
    record: Callable[[str], BytesRecord]

    @property
    def sounds(self) -> list[str]:
        return [path for path in self.files if os.path.splitext(path)[1].lower() in SUFFIXES]

    def read(self, path: str) -> str:
        try:
            return self.record(path).open().read().decode("utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise UnderstudyError(f"{self.name}/{path} cannot be read ({fault}); save it as UTF-8 text") from None


def _layout(name: str, place: Path) -> list[Recording]:
    tree = _tree(name, place)
    kaldi = [path for path in tree.files if path == "text" or (path.count("/") == 1 and path.endswith("/text"))]
    if kaldi:
        return [one for text in kaldi for one in _kaldi(tree, text)]
    tables = [path for path in tree.files if path.endswith(".csv") and "/" not in path]
    if len(tables) == 1 and place.is_dir():
        return _table(place / tables[0])
    if not tree.sounds:
        raise UnderstudyError(f"{name} has no {', '.join(SUFFIXES)} files; {_LAYOUTS}")
    if all(_DIGIT_FILE.fullmatch(Path(path).stem) for path in tree.sounds):
        return [_digit(tree, path) for path in tree.sounds]
    return _word_folders(tree)


def _tree(name: str, place: Path) -> _Tree:
    if place.is_file():
        try:
            handle = open_zip(place)
            files = [info.filename for info in handle().infolist() if not info.is_dir()]
        except BadZipFile as fault:
            raise UnderstudyError(f"{name} is neither a .csv nor a valid zip file ({fault}); {_LAYOUTS}") from None
        record = partial(ZipRecord, handle)
    else:
        files = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
        record = partial(FileRecord, os.fspath(place))
    files = sorted(path for path in files if not any(part.startswith((".", "__MACOSX")) for part in path.split("/")))
    top = os.path.commonpath(files) + "/" if len(files) > 1 and os.path.commonpath(files) else ""
    return _Tree(name, [path.removeprefix(top) for path in files], lambda path: record(top + path))


def _digit(tree: _Tree, path: str) -> Recording:
    match = _DIGIT_FILE.fullmatch(Path(path).stem)
    assert match is not None
    digit, speaker, index = match.groups()
    part = "test" if int(index) < _TEST_INDEX else "train"
    return Recording(path, (DIGITS[int(digit)],), speaker, tree.record(path), part)


def _kaldi(tree: _Tree, text: str) -> list[Recording]:
    """Utterances of a Kaldi `text` file; a folder named train, test, ... determines their part."""
    folder = text[: -len("text")]
    places, speakers = (_columns(tree, folder + name) for name in ("wav.scp", "utt2spk"))
    stems = {Path(path).stem: path for path in tree.sounds if path.startswith(folder)}
    found = []
    for utterance, words in _columns(tree, text).items():
        where = places.get(utterance, stems.get(utterance))
        if where is None:
            raise UnderstudyError(
                f"{tree.name}/{text} has {escape_name(utterance)!r}, for which there is no {utterance}.flac and no "
                "line in wav.scp; add the recording or remove the line"
            )
        if where.endswith("|"):
            raise UnderstudyError(
                f"{tree.name}/{folder}wav.scp reads {escape_name(utterance)!r} from a command, and commands are not "
                "run; convert the recordings to files"
            )
        inside = [path for path in (where, folder + where) if path in tree.files]
        record = tree.record(inside[0]) if inside else FileRecord("", os.path.join(tree.name, where))
        part = parse_split(folder.rstrip("/")) or ""
        found.append(Recording(folder + utterance, tuple(words.split()), speakers.get(utterance, ""), record, part))
    return found


def _columns(tree: _Tree, path: str) -> dict[str, str]:
    """Map the first word of each line to the rest; empty if there is no such file."""
    if path not in tree.files:
        return {}
    lines = [line.strip() for line in tree.read(path).splitlines() if line.strip()]
    return {head: rest for head, _, rest in (line.replace("\t", " ").partition(" ") for line in lines)}


def _table(path: Path) -> list[Recording]:
    """A CSV with the columns path (relative to the file) and text, and optionally speaker and split."""
    name = escape_name(os.fspath(path))
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise UnderstudyError(f"{name} cannot be read ({fault}); save it as a CSV in UTF-8") from None
    if not rows or not {"path", "text"} <= set(rows[0]):
        raise UnderstudyError(f"{name} needs the columns path and text, and one row per recording")
    found = []
    for row in rows:
        where, split = (row["path"] or "").strip(), (row.get("split") or "").strip()
        part = parse_split(split) if split else ""
        if part is None:
            raise UnderstudyError(f"{name} has {split!r} in its split column; use train, val or test")
        record = FileRecord(os.fspath(path.parent), where)
        words = tuple((row["text"] or "").split())
        found.append(Recording(where, words, (row.get("speaker") or "").strip(), record, part))
    return found


def _word_folders(tree: _Tree) -> list[Recording]:
    """One folder per word, as in Speech Commands: `yes/SPEAKER_nohash_0.wav`."""
    lists = {"test": "testing_list.txt", "validation": "validation_list.txt"}
    depth = min(path.count("/") for path in tree.sounds)
    folder = tree.sounds[0].rsplit("/", 2)[0] + "/" if depth > 1 else ""  # torchaudio uses SpeechCommands/VERSION/
    listed = {
        line.strip(): part
        for part, file in lists.items()
        if folder + file in tree.files
        for line in tree.read(folder + file).splitlines()
    }
    found = []
    for path in tree.sounds:
        relative = path.removeprefix(folder)
        word, _, file = relative.rpartition("/")
        if word.startswith("_"):
            continue  # background noise
        if not word or "/" in word:
            raise UnderstudyError(f"{tree.name} has no transcript for {escape_name(path)!r}; {_LAYOUTS}")
        speaker, hashed, _ = file.partition("_nohash_")
        part = listed.get(relative, "train" if listed else "")
        found.append(Recording(relative, (word,), speaker if hashed else "", tree.record(path), part))
    return found
