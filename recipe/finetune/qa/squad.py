"""Questions of SQuAD: loaded from the official JSON files, the hub dataset, or files of your own in either layout.

Errors in a file are reported with their path in the JSON.
"""

import hashlib
import json
import numbers
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from recipe.data.surrogates import without_surrogates
from recipe.finetune.qa.tasks import Squad
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub

SHOWN = 3  # of the answers that aren't in their context, print this many


@dataclass(frozen=True)
class Answer:
    """A span of a context: its text, and the index of its first character."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """One question. `answers` is () if it has none, None if they are unknown (a test split)."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...] | None

    def holds(self, answer: Answer) -> bool:
        """Whether the context has the text of `answer` at its start."""
        return answer.start >= 0 and self.context.startswith(answer.text, answer.start)


@dataclass(frozen=True)
class Questions:
    """One split, in the order of its file. `skipped` is the number of questions left out of training because their
    answer isn't in their context, `misplaced` describes such answers of any split, `replaced` is the number of lone
    surrogates that became U+FFFD."""

    rows: list[Question]
    source: str
    skipped: int = 0
    misplaced: tuple[str, ...] = ()
    replaced: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hidden(self) -> bool:
        """Whether answers are unknown, so that the split can neither be trained on nor scored."""
        return any(question.answers is None for question in self.rows)

    def first(self, count: int | None) -> "Questions":
        """The first `count` questions; None means all."""
        return self if count is None or count >= len(self) else replace(self, rows=self.rows[:count])

    @cached_property
    def digest(self) -> str:
        """sha256 of questions, contexts and answers: identifies the data of a score."""
        digest = hashlib.sha256()
        for row in self.rows:
            answers = None if row.answers is None else [(answer.text, answer.start) for answer in row.answers]
            digest.update(json.dumps([row.id, row.text, row.context, answers]).encode())
        return digest.hexdigest()


# ---- sources


def read_files(files: dict[str, str | None]) -> dict[str, Questions]:
    """Loads the splits of `files`, {split: path}: JSON in the official layout (data, paragraphs, qas), {"data": [...]}
    with the columns of the hub dataset (id, question, context, answers), or .jsonl with these columns.

    Raises UserError, with the path in the file, for malformed content.
    """
    return {split: read_file(Path(name).expanduser()) for split, name in files.items() if name}


def read_file(file: Path) -> Questions:
    """Loads the questions of one file. Raises UserError as `read_files` does."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}: expected a SQuAD file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason} near byte {error.start}): convert it") from error
    if file.suffix == ".jsonl":
        lines = [(f"line {n}", line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        return _questions((_flat(_parsed(line, f"{file}, {at}"), at, file) for at, line in lines), str(file))
    content = _parsed(text, str(file))
    if isinstance(content, list):
        content = {"data": content}
    records = _get(content, "data", list, "", file)
    return _questions(_records(records, file), str(file))


def read_folder(folder: Path, task: Squad) -> dict[str, Questions]:
    """Loads the splits in a folder: one JSON file each, whose name begins with train, dev (or validation) or test, that
    of the version of `task` if there are both; or parquet files as in the hub repository. Raises UserError if there are
    none, or several files of a split."""
    found = {}
    for split, stems in {"train": ("train",), "validation": ("dev", "valid"), "test": ("test",)}.items():
        files = sorted(f for stem in stems for kind in ("json", "jsonl") for f in folder.glob(f"{stem}*.{kind}"))
        other = "v2" if task.name == "squad" else "v1"
        files = [file for file in files if other not in file.name] if len(files) > 1 else files
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(
                f"{folder} has several files of the {split} split ({names}): pass --train_file and --validation_file"
            )
        if files:
            found[split] = read_file(files[0])
        elif shards := sorted(f for stem in stems for f in folder.rglob(f"{stem}*.parquet")):
            found[split] = _read_parquet(shards)
    if not found:
        raise UserError(f"{folder} has no SQuAD files: expected train-v1.1.json and dev-v1.1.json, or parquet files")
    return found


def read_squad(source: str, config: str | None, task: Squad, splits: tuple[str, ...], **hub_options):
    """Loads those of `splits` that `source`, a folder or a hub id, has. Raises UserError if it cannot be loaded."""
    if is_local(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"found no folder {source}: expected SQuAD's files in it, or a hub id such as {task.hub_id}"
            )
        return {split: rows for split, rows in read_folder(folder, task).items() if split in splits}
    require_hub(f"dataset {source}", "a folder with the official JSON files as SQUAD_DATA (--dataset_name)")
    from datasets import load_dataset

    chosen = {key: value for key, value in hub_options.items() if key in ("cache_dir", "token")}
    try:
        data = load_dataset(source, config, **chosen)
    except Exception as error:  # datasets raises a dozen classes for "not found" and "no network"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load {source}: {reason}: pass a folder, or --train_file") from error
    return {split: _from_rows(data[split], f"{source} {split}") for split in splits if split in data}


def _read_parquet(shards: list[Path]) -> Questions:
    import pandas as pd

    try:
        frame = pd.concat([pd.read_parquet(shard) for shard in shards], ignore_index=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {shards[0]}: {str(error).splitlines()[0]}: copy it again") from error
    return _from_rows(frame.to_dict("records"), str(shards[0].parent))


def _from_rows(rows: Iterable[dict], source: str) -> Questions:
    return _questions((_flat(row, f"row {n}", source) for n, row in enumerate(rows)), source)


# ---- content of files


def _parsed(text: str, where: str):
    try:
        return json.loads(text)
    except ValueError as error:
        at = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "its text"
        raise UserError(f"{where} is not JSON: {getattr(error, 'msg', error)} at {at}: copy it again") from error


_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object", bool: "true or false"}


def _get(holder, name: str, kind: type, path: str, source):
    """holder[name]. Raises UserError if it is missing or not of type `kind`; `path` is that of `holder` in the file."""
    place = f"{path}.{name}".lstrip(".")
    if not isinstance(holder, dict):
        raise UserError(f"{source}, {path or 'the whole'}: found {_shown(holder)}, expected an object with {name!r}")
    if name not in holder:
        found = ", ".join(map(str, holder)) or "nothing"
        raise UserError(f"{source}, {path or 'the whole'}: found {found}, expected {name!r} among them")
    value = holder[name]
    value = value.tolist() if hasattr(value, "tolist") else value  # a numpy array of the hub dataset
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{source}, {place}: found {_shown(value)}, expected {_KINDS[kind]}")
    return value


def _identity(row, path: str, source) -> str:
    """The id of a row, a string or an integer, as a string."""
    number = isinstance(row, dict) and isinstance(row.get("id"), numbers.Integral) and not isinstance(row["id"], bool)
    return str(row["id"]) if number else _get(row, "id", str, path, source)


def _shown(value) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _records(records: list, file: Path) -> Iterator[tuple[Question, str]]:
    for n, record in enumerate(records):
        if isinstance(record, dict) and "paragraphs" not in record and "question" in record:
            yield _flat(record, f"data[{n}]", file)
            continue
        for m, paragraph in enumerate(_get(record, "paragraphs", list, f"data[{n}]", file)):
            where = f"data[{n}].paragraphs[{m}]"
            context = _get(paragraph, "context", str, where, file)
            for k, entry in enumerate(_get(paragraph, "qas", list, where, file)):
                yield _official(entry, context, f"{where}.qas[{k}]", file)


def _official(entry, context: str, path: str, file: Path) -> tuple[Question, str]:
    identity, text = _identity(entry, path, file), _get(entry, "question", str, path, file)
    impossible = "is_impossible" in entry and _get(entry, "is_impossible", bool, path, file)
    if "answers" not in entry and not impossible:
        return Question(identity, text, context, None), path
    answers = []
    for n, answer in enumerate([] if impossible else _get(entry, "answers", list, path, file)):
        place = f"{path}.answers[{n}]"
        start = _get(answer, "answer_start", int, place, file)
        answers.append(_answer(_get(answer, "text", str, place, file), start, place, file))
    return Question(identity, text, context, tuple(answers)), path


def _flat(row, path: str, source) -> tuple[Question, str]:
    """A row of the hub dataset, whose answers are two lists, `text` and `answer_start`."""
    identity = _identity(row, path, source)
    text, context = (_get(row, name, str, path, source) for name in ("question", "context"))
    if row.get("answers") is None:
        return Question(identity, text, context, None), path
    place = f"{path}.answers"
    columns = _get(row, "answers", dict, path, source)
    texts, starts = (_get(columns, name, list, place, source) for name in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise UserError(f"{source}, {place}: found {len(texts)} texts and {len(starts)} starts, expected as many")
    answers = []
    for n, (answer, start) in enumerate(zip(texts, starts, strict=True)):
        pair = {"text": answer, "answer_start": start}
        answer, start = (_get(pair, name, kind, f"{place}[{n}]", source) for name, kind in _PAIR)
        answers.append(_answer(answer, start, f"{place}[{n}]", source))
    return Question(identity, text, context, tuple(answers)), path


_PAIR = (("text", str), ("answer_start", int))


def _answer(text: str, start: int, path: str, source) -> Answer:
    if not text.strip():
        raise UserError(f"{source}, {path}.text: found {_shown(text)}, expected a text that isn't blank")
    return Answer(text, start)


def _questions(records: Iterable[tuple[Question, str]], source: str) -> Questions:
    """The split, with its misplaced answers. Raises UserError for duplicate ids, since predictions are stored by id."""
    rows, places, misplaced, replaced = [], {}, [], 0
    for question, path in records:
        question, found = _without_surrogates(question)
        replaced += found
        if question.id in places:
            raise UserError(
                f"{source}, {path}: found the id {question.id!r} of {places[question.id]} again: ids must be unique"
            )
        places[question.id] = path
        rows.append(question)
        for answer in question.answers or ():
            if question.holds(answer):
                continue
            found = question.context[answer.start : answer.start + len(answer.text)]
            misplaced.append(f"{path} ({question.id}): answer {_shown(answer.text)}, context {_shown(found)}")
    if not rows:
        raise UserError(f"{source} has no questions: expected some under data[].paragraphs[].qas[]")
    return Questions(rows, source, misplaced=tuple(misplaced), replaced=replaced)


def _without_surrogates(question: Question) -> tuple[Question, int]:
    """The question with lone surrogates replaced, and their number."""
    answers = question.answers or ()
    texts = (question.id, question.text, question.context, *(answer.text for answer in answers))
    (name, text, context, *given), counts = zip(*map(without_surrogates, texts), strict=True)
    if not (count := sum(counts)):
        return question, 0
    given = tuple(Answer(new, answer.start) for new, answer in zip(given, answers, strict=True))
    return Question(name, text, context, None if question.answers is None else given), count


def for_training(questions: Questions) -> Questions:
    """Removes answers that aren't in their context, and questions left without an answer by that. Raises UserError if
    no question is left."""
    kept = []
    for question in questions.rows:
        good = tuple(answer for answer in question.answers or () if question.holds(answer))
        if good or not question.answers:
            kept.append(replace(question, answers=good))
    if not kept:
        raise UserError(f"{questions.source}: no answer is in its context (e.g. {questions.misplaced[0]}): check it")
    return replace(questions, rows=kept, skipped=len(questions) - len(kept))


def require_answers(questions: Questions, with_negative: bool) -> None:
    """Raises UserError if answers are unknown, or if questions have none and `with_negative` is False."""
    if questions.hidden:
        row = next(question for question in questions.rows if question.answers is None)
        raise UserError(f"{questions.source}: question {row.id} has no 'answers': expected some to train or score")
    empty = [question.id for question in questions.rows if not question.answers]
    if empty and not with_negative:
        raise UserError(
            f"{questions.source}: {len(empty):,} of {len(questions):,} questions have no answer (e.g. {empty[0]}): "
            "pass --version_2_with_negative"
        )
