"""recipe.finetune.qa.squad: questions out of files, and what is said of a file that isn't as it should be."""

import json

import pandas as pd
import pytest
from qa_toys import paragraphs, squad_of, with_negatives, write_squad
from toy import SHARED_DATA

from recipe.finetune.qa.squad import Answer, for_training, read_file, read_squad, require_answers
from recipe.finetune.qa.tasks import TASKS
from recipe.system.errors import UserError


@pytest.fixture
def written(tmp_path):
    def write(content, name="train.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / name

    return write


def flat(made):
    return [
        {
            "id": q["id"],
            "title": "t",
            "context": p["context"],
            "question": q["question"],
            "answers": {
                "text": [a["text"] for a in q["answers"]],
                "answer_start": [a["answer_start"] for a in q["answers"]],
            },
        }
        for p in made
        for q in p["qas"]
    ]


def test_every_layout_gives_the_same_questions(written, tmp_path):
    made = paragraphs(3)
    official = read_file(written(squad_of(made)))
    assert [q.id for q in official.rows] == ["q0-0-0", "q0-0-3", "q0-1-0", "q0-1-3", "q0-2-0", "q0-2-3"]
    first = official.rows[0]
    assert first.context[first.answers[0].start :].startswith(first.answers[0].text)
    lines = "\n".join(json.dumps(row) for row in flat(made))
    for file in (
        written({"data": flat(made)}, "flat.json"),
        written(lines, "lines.jsonl"),
        written(flat(made), "l.json"),
    ):
        assert read_file(file).rows == official.rows
    folder = tmp_path / "hub" / "plain_text"
    folder.mkdir(parents=True)
    pd.DataFrame(flat(made)).to_parquet(folder / "train-00000-of-00001.parquet")
    copied = read_squad(str(tmp_path / "hub"), None, TASKS["squad"], ("train", "validation"))
    assert copied["train"].rows == official.rows and copied["train"].digest == official.digest
    assert set(copied) == {"train"}


def test_ids_may_be_whole_numbers(written):
    rows = flat(paragraphs(1))
    rows[0]["id"], rows[1]["id"] = 7, "8"
    assert [q.id for q in read_file(written({"data": rows}, "flat.json")).rows] == ["7", "8"]
    made = paragraphs(1)
    made[0]["qas"][0]["id"] = 7
    assert read_file(written(squad_of(made))).rows[0].id == "7"
    rows[1]["id"] = 7
    with pytest.raises(UserError, match="found the id '7' of"):
        read_file(written({"data": rows}, "flat.json"))
    rows[1]["id"] = True
    with pytest.raises(UserError, match="id: found true, expected a text"):
        read_file(written({"data": rows}, "flat.json"))


def test_lone_surrogates_are_replaced_and_counted(written):
    made = paragraphs(1)
    start = made[0]["qas"][1]["answers"][0]["answer_start"]
    made[0]["context"] = "\ud83d" + made[0]["context"][1:start] + "\udc00" + made[0]["context"][start + 1 :]
    answer = made[0]["qas"][1]["answers"][0]
    answer["text"] = "\udc00" + answer["text"][1:]
    questions = read_file(written(squad_of(made)))
    assert questions.replaced == 5 and not questions.misplaced  # two in the context of each question, one in an answer
    assert questions.rows[1].holds(questions.rows[1].answers[0])
    questions.rows[1].context.encode("utf-8")


def change(content, path, value):
    """`content` with the place `path` set to `value`, or taken away for None."""
    holder = content
    for part in path[:-1]:
        holder = holder[part]
    if value is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return content


ANSWER = ("data", 1, "paragraphs", 0, "qas", 1, "answers", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("data",), None, "the whole: found version, expected 'data' among them"),
        (("data",), {}, "data: found {}, expected a list"),
        (("data", 1, "paragraphs"), None, r"data\[1\]: found title, expected 'paragraphs'"),
        (("data", 1), "x", r'data\[1\]: found "x", expected an object'),
        (("data", 1, "paragraphs", 0, "context"), 7, r"data\[1\].paragraphs\[0\].context: found 7, expected a text"),
        (ANSWER[:6], 3, r"data\[1\].paragraphs\[0\].qas\[1\]: found 3, expected an object with 'id'"),
        (("data", 0, "paragraphs", 1, "qas", 0, "question"), None, r"qas\[0\]: found id, answers, expected 'question'"),
        ((*ANSWER[:6], "answers"), "red", r"qas\[1\].answers: found \"red\", expected a list"),
        ((*ANSWER, "answer_start"), "12", r"qas\[1\].answers\[0\].answer_start: found \"12\", expected a whole number"),
        ((*ANSWER, "answer_start"), True, "answer_start: found true, expected a whole number"),
        ((*ANSWER, "text"), " ", r"answers\[0\].text: found \" \", expected a text that isn't blank"),
        (
            (*ANSWER[:6], "id"),
            "q0-0-0",
            r"data\[1\].*found the id 'q0-0-0' of data\[0\].paragraphs\[0\].qas\[0\] again",
        ),
        (("data", 0, "paragraphs", 0, "qas", 0, "is_impossible"), "no", "expected true or false"),
    ],
)
def test_a_mistake_is_named_by_its_path(written, path, value, message):
    file = written(change(squad_of(paragraphs(4)), path, value))
    with pytest.raises(UserError, match=message) as error:
        read_file(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_json_or_empty_or_not_there(written, tmp_path):
    with pytest.raises(UserError, match=r"is not JSON: .* at line 2, column \d"):
        read_file(written('{"data":\n [1, }'))
    with pytest.raises(UserError, match="has no questions"):
        read_file(written({"data": []}))
    with pytest.raises(UserError, match=r"cannot read .*none.json: No such file"):
        read_file(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"lines.jsonl, line 2 is not JSON"):
        read_file(written(json.dumps(flat(paragraphs(1))[0]) + "\n{", "lines.jsonl"))
    (tmp_path / "latin.json").write_bytes('{"data": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        read_file(tmp_path / "latin.json")
    row = flat(paragraphs(1))[0]
    row["answers"]["answer_start"] = []
    with pytest.raises(UserError, match=r"data\[0\].answers: found 1 texts and 0 starts"):
        read_file(written({"data": [row]}))


def test_answers_that_are_not_in_their_context(written):
    made = paragraphs(3)
    made[0]["qas"][0]["answers"][0]["answer_start"] += 1
    made[1]["qas"][0]["answers"][0]["text"] = "purple"
    made[1]["qas"][0]["answers"].append(made[1]["qas"][1]["answers"][0])  # one of its two is right
    made[2]["qas"][1]["answers"][0]["answer_start"] = -1
    questions = read_file(written(squad_of(made)))
    assert len(questions) == 6 and len(questions.misplaced) == 3
    assert questions.misplaced[0].startswith('data[0].paragraphs[0].qas[0] (q0-0-0): answer "')
    kept = for_training(questions)
    assert kept.skipped == 2 and [q.id for q in kept.rows] == ["q0-0-3", "q0-1-0", "q0-1-3", "q0-2-0"]
    assert kept.rows[1].answers == (Answer(**{"text": made[1]["qas"][1]["answers"][0]["text"],
                                              "start": made[1]["qas"][1]["answers"][0]["answer_start"]}),)  # fmt: skip
    for paragraph in made:
        for entry in paragraph["qas"]:
            entry["answers"][0]["answer_start"] = entry["answers"][-1]["answer_start"] = 10_000
    with pytest.raises(UserError, match="no answer is in its context"):
        for_training(read_file(written(squad_of(made))))


def test_missing_and_hidden_answers(written):
    negatives = read_file(written(squad_of(with_negatives(paragraphs(2)))))
    assert len(for_training(negatives)) == 4
    require_answers(negatives, with_negative=True)
    with pytest.raises(UserError, match=r"2 of 4 questions have no answer .*pass --version_2_with_negative"):
        require_answers(negatives, with_negative=False)
    made = paragraphs(1)
    del made[0]["qas"][1]["answers"]
    hidden = read_file(written(squad_of(made)))
    assert hidden.hidden and not negatives.hidden
    with pytest.raises(UserError, match="question q0-0-3 has no 'answers'"):
        require_answers(hidden, with_negative=True)


def test_a_folder_with_both_versions(tmp_path):
    write_squad(tmp_path)
    write_squad(tmp_path, negatives=True)
    wanted = ("train", "validation")
    for task, empty in (("squad", 0), ("squad_v2", 4)):
        found = read_squad(str(tmp_path), None, TASKS[task], wanted)
        assert set(found) == set(wanted) and sum(not q.answers for q in found["validation"].rows) == empty
    (tmp_path / "dev-v1.1-mine.json").write_text("{}")
    with pytest.raises(UserError, match="several files of the validation split"):
        read_squad(str(tmp_path), None, TASKS["squad"], wanted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no SQuAD files"):
        read_squad(str(tmp_path / "empty"), None, TASKS["squad"], wanted)
    with pytest.raises(UserError, match="found no folder"):
        read_squad(str(tmp_path / "gone"), None, TASKS["squad"], wanted)


def test_the_real_files():
    folder = SHARED_DATA / "squad"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    found = read_squad(str(folder), None, TASKS["squad"], ("train", "validation"))
    assert len(found["validation"]) == TASKS["squad"].sizes["validation"] and len(found["train"]) == 8198
    assert not found["train"].misplaced and not found["validation"].misplaced
