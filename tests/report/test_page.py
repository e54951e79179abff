"""recipe.report, recipe.report.caveats, recipe.report.training_curves: one page that says what there is, and what isn't."""

import base64
import hashlib
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from glue_toys import record, toy_run
from matplotlib.pyplot import imread
from toy import REPOSITORY

from recipe.finetune.results import result_file
from recipe.finetune.suites import SUITES
from recipe.report import page as report
from recipe.report.page import ReportArguments, command_line, report_of
from recipe.report.score_frames import read_frame
from recipe.report.scores import rebuild
from recipe.report.table import table_of
from recipe.report.training_curves import _scales
from recipe.system.errors import UserError
from recipe.system.files import write_json

GLUE, QA = SUITES["glue"], SUITES["qa"]
LOG = [
    {"step": 5, "loss": 7.0, "learning_rate": 1e-3, "tokens_seen": 320, "tokens_per_second": 100.0},
    {"step": 10, "loss": 6.0, "learning_rate": 5e-4, "tokens_seen": 640, "tokens_per_second": 50.0},
    {"step": 10, "eval_loss": 6.25, "eval_unigram_loss": 6.5, "eval_masked_accuracy": 0.125},
    {"step": 20, "loss": 5.0, "learning_rate": 0.0, "tokens_seen": 1280, "tokens_per_second": 100.0},
    {"step": 20, "eval_loss": 5.5, "eval_unigram_loss": 6.5, "eval_masked_accuracy": 0.25},
    {"step": 20, "train_loss": 6.0, "train_runtime": 14.0, "skipped_updates": 0},
]


class Page(HTMLParser):
    """What a reader of the page gets: its text, its tables as rows of cells, its tags with their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.tables, self.parts, self.inside, self.script = [], [], [], "", ""
        self.feed(html)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ("style", "script", "th", "td") else self.inside
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside == "script":
            self.script += data
        if self.inside in ("style", "script"):
            return
        self.parts.append(data)
        if self.inside:
            self.tables[-1][-1][-1] = " ".join((self.tables[-1][-1][-1] + data).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def scores(self, corner="checkpoint"):
        """The first table with that corner, as {row: {column: text}}."""
        head, *rows = next(table for table in self.tables if table[0][0] == corner)
        return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def write_log(run: Path, lines=LOG) -> Path:
    run.mkdir(exist_ok=True, parents=True)
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def write_scores(run: Path, leave_out=()) -> None:
    """Two seeds of three tasks at both checkpoints, and of fresh weights."""
    fresh = {"name": "random:toy", "path": "gone", "step": 0, "tokens_seen": 0, "sha256": None}
    for step in (0, 10, 20):
        for place, task in enumerate(("cola", "rte", "mnli")):
            for seed in (1, 2):
                if (step, task, seed) in leave_out:
                    continue
                made = record(task, seed, 0.3 + step / 100 + place / 10 + seed / 500 + 1 / 3e4, step)
                made["checkpoint"] |= fresh if step == 0 else {"path": str(run / f"checkpoint-{step}")}
                write_json(result_file(run / "glue" / "jobs" / f"s{step}", task, seed), made)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with everything: log, checkpoints, scores. Tests that change it take a copy."""
    run = write_log(toy_run(tmp_path_factory.mktemp("report") / "toy"))
    write_scores(run)
    rebuild(run / "glue")
    return run


@pytest.fixture(scope="module")
def page(finished):
    return Page(report_of([finished], ReportArguments(sentences=["the cat ___ the dog", "a ___ and a ___"], top_k=2)))


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "toy"))


def no_blanks(**more):
    return ReportArguments(max_checkpoints=0, **more)


def test_the_table_has_the_numbers_of_glue_csv(page, finished):
    csv = pd.read_csv(finished / "glue" / "glue.csv")
    shown = page.scores()
    assert list(shown) == ["random:toy", "toy/checkpoint-10", "toy/checkpoint-20"]
    for column, task, metric in (
        ("CoLA", "cola", "matthews_correlation"),
        ("RTE", "rte", "accuracy"),
        ("MNLI-mm", "mnli", "accuracy_mm"),
    ):
        for name, row in shown.items():
            values = csv[(csv["checkpoint"] == name) & (csv["task"] == task)][metric] * 100
            assert row[column] == f"{values.mean():.1f} ± {values.std():.1f} (2)"
    assert shown["toy/checkpoint-20"]["average"] == "–" and shown["toy/checkpoint-20"]["tokens"] == "1,280"


def test_figures_pictures_commands_and_settings(page):
    for said in ("20 of 20", "1,280", "5.500 nats", "6.500 nats", "25.0%", "100 tokens/s (median)"):
        assert said in page.text
    assert "16 seconds" in page.text  # 320 tokens at 100 per second, 320 at 50, 640 at 100
    pictures = page.all("img")
    assert [p["alt"].split(" against")[0] for p in pictures[:3]] == [
        "Loss in nats",
        "Learning rate",
        "Tokens per second",
    ]
    for said in ("7.000 at step 5, 5.000 at step 20", "5.500 at step 20", "unigram baseline is 6.500"):
        assert said in pictures[0]["alt"]
    assert len(pictures) == 4 and len(page.all("source")) == 1
    for source in [p["src"] for p in pictures] + [s["srcset"] for s in page.all("source")]:
        assert b"<svg" in base64.b64decode(source.removeprefix("data:image/svg+xml;base64,"))[:1000]
    assert "python run_mlm.py \\ --dataset_name toys" in page.text
    settings = page.scores("global_batch_size")
    assert settings["learning_rate"] == {"global_batch_size": "learning_rate", "4": "0.001"}


def test_it_asks_for_nothing_and_can_be_read_by_all(page):
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert page.all("script") == [{}] and not page.all("link") and not page.all("iframe")
    allowed = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'")
    assert not re.search(r"fetch|XMLHttpRequest|import|eval|innerHTML|https?:", page.script)
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert page.all("html")[0]["lang"] == "en" and all(len(p["alt"]) > 20 for p in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) == 1
    regions = [a for _, a in page.tags if a.get("role") == "region"]
    assert len(regions) >= 4 and all(a["aria-label"] and a["tabindex"] == "0" for a in regions)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) and {a["aria-labelledby"] for a in page.all("section")} == set(ids)


def test_blanks_by_checkpoint_in_the_order_of_steps(page):
    one, two = [table for table in page.tables if table[0][0] == "step"]
    assert [row[0] for row in one] == ["step", "10", "20"] and len(one[1]) == 1 + 2
    assert [row[:2] for row in two] == [["step", "blank"], ["10", "1"], ["10", "2"], ["20", "1"], ["20", "2"]]
    assert one[1][1:] != one[2][1:] and all(cell.endswith("%") for cell in one[1][1:])


def test_of_many_checkpoints_some_are_asked_first_and_last_among_them(tmp_path):
    run = write_log(toy_run(tmp_path / "long", steps=(10, 20, 100)))
    (samples,), _ = report.samples_of(run, ReportArguments(sentences=["a ___"], max_checkpoints=2))
    assert [answer.step for answer in samples] == [10, 100]
    (samples,), _ = report.samples_of(run, ReportArguments(sentences=["a ___"], max_checkpoints=1))
    assert [answer.step for answer in samples] == [100]
    (run / "checkpoint-20" / "config.json").write_text("{}")
    (samples,), warnings = report.samples_of(run, ReportArguments(sentences=["a ___"]))
    assert [answer.step for answer in samples] == [10, 100] and "checkpoint-20 is damaged" in warnings[0]


def test_text_stays_text(tmp_path):
    evil = "<script>alert('$x^$')<"
    run = write_log(toy_run(tmp_path / evil, steps=(10,)))
    made = record("cola")
    made["checkpoint"]["name"] = f"{evil}/checkpoint-10"
    write_json(result_file(run / "glue" / "jobs" / "x", "cola", 1), made)
    told = json.loads((run / "run.json").read_text())
    told["command"] += ["--text_column", '"><img src=x onerror=alert(1)>']
    told["meaning"]["</td><script>"] = "</table><b>"
    (run / "run.json").write_text(json.dumps(told))
    page = Page(report_of([run], ReportArguments(sentences=["</h3><script>a ___"])))
    assert (
        page.all("script") == [{}]
        and "alert" not in page.script
        and not page.all("b")
        and all("onerror" not in a for a in page.all("img"))
    )
    assert page.text.startswith(f"{evil}: report {evil}") and f"{evil}/checkpoint-10" in page.scores()
    for said in ('"><img src=x onerror=alert(1)>', "</td><script>", "</table><b>", "</h3><script>a ___"):
        assert said in page.text


def test_what_is_missing_and_what_is_worth_less_is_said(copy, no_curve):
    shutil.rmtree(copy / "glue")
    write_scores(copy, leave_out=[(10, "rte", 1), (10, "rte", 2), (20, "cola", 2)])
    jobs = copy / "glue" / "jobs"
    made = record("rte", 1, 0.5, 20, started_from_mnli="m")
    made["examples"]["train"] |= {"used": 500, "subset": True}
    write_json(result_file(jobs / "s20", "rte", 1), made)
    (jobs / "s10" / "rte-seed1.error.txt").write_text("it broke")
    shutil.copytree(copy / "checkpoint-20", copy / "checkpoint-30")
    told = json.loads((copy / "run.json").read_text())
    told["command"] += ["--max_train_samples=99", "--max_eval_samples", "7"]
    told |= {"history": [{"changed": {"learning_rate": [1, 2]}}], "git_commit": "abc-dirty"}
    told["meaning"]["max_steps"] = 40
    (copy / "run.json").write_text(json.dumps(told))
    write_log(
        copy, [*LOG[:-1], {"step": 20, "eval_loss": 6.75, "eval_unigram_loss": 6.5}, LOG[-1] | {"skipped_updates": 3}]
    )
    page = Page(report_of([copy], no_blanks()))
    for said in (
        "The run is not finished: step 20 of 40.",
        "3 updates were skipped",
        "6.750, is not below the unigram baseline, 6.500",
        "--max_train_samples 99: only so many blocks of the training text",
        "--max_eval_samples 7: only so many blocks of the evaluation text",
        "Settings changed when the run was resumed: learning_rate.",
        "changes that are in no commit",
        "Only part of the official training examples: rte 500.",
        "Started from the MNLI model of the same checkpoint and seed: rte.",
        "GLUE cells that are missing: toy/checkpoint-10 RTE.",
        "GLUE tasks that no checkpoint has: SST-2, MRPC, STS-B, QQP, QNLI, WNLI.",
        "Checkpoints without a GLUE score: checkpoint-30.",
        "means over 1 to 2 seeds",
        "GLUE jobs that failed: s10 rte-seed1.",
        "No checkpoint was asked to fill blanks.",
    ):
        assert said in page.text
    assert page.scores()["toy/checkpoint-10"]["RTE"] == "–"


def test_a_finished_run_is_warned_of_only_for_what_holds(page):
    (start, end) = (page.text.index("Before you believe"), page.text.index("Pre-training"))
    assert page.text[start:end].split(" ", 5)[5].strip() == (
        "GLUE tasks that no checkpoint has: SST-2, MRPC, STS-B, QQP, QNLI, WNLI."
    )


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    run = write_log(tmp_path / "young", [])
    page = Page(report_of([run], ReportArguments()))
    for said in ("no run.json", "Nothing of the training is logged", "no evaluation", "No blanks are filled: found no"):
        assert said in page.text
    assert f"RUN={run} bash finetune_glue.sh" in page.text and "SQuAD" not in page.text and not page.all("img")
    (run / "log.jsonl").write_text(json.dumps(LOG[0]) + '\n[1]\n{"step": 10, "lo')
    page = Page(report_of([run], ReportArguments()))
    assert len(page.all("img")) == 3 and "There is no evaluation" in page.text and "7.000 nats" in page.text


def test_squad_has_its_own_table(tmp_path, no_curve):
    run = write_log(tmp_path / "toy")
    made = record("rte") | {"task": "squad", "metrics": {"validation": {"exact_match": 12.5, "f1": 25.0}}}
    made["headline"] = {"metric": "f1", "split": "validation", "value": 25.0}
    made["examples"] = {
        s: {"used": 5, "official": n, "subset": True} for s, n in SUITES["qa"].tasks["squad"].sizes.items()
    }
    write_json(result_file(run / "qa" / "jobs" / "x", "squad", 1), made)
    rebuild(run / "qa")
    page = Page(report_of([run], no_blanks()))
    assert page.scores()["toy/checkpoint-10"]["SQuAD F1"] == "25.0"
    assert "There is no GLUE score yet" in page.text and "examples: squad 5." in page.text
    shutil.rmtree(run / "qa" / "jobs")  # the csv alone says the same
    assert Page(report_of([run], no_blanks())).scores() == page.scores()


def test_a_causal_model_fills_no_blanks(copy):
    for step in copy.glob("checkpoint-*"):
        config = json.loads((step / "config.json").read_text()) | {"is_decoder": True}
        (step / "config.json").write_text(json.dumps(config))
        (step / "manifest.json").write_text('{"files": {}}')
    _, warnings = report.samples_of(copy, ReportArguments())
    assert "the model is a causal one" in warnings[0]


def test_published_results_without_jobs_or_weights_are_enough(no_curve):
    run = REPOSITORY / "results" / "glue-tiny"
    assert table_of(read_frame(run, GLUE)) == (run / "glue.md").read_text()
    assert read_frame(run, QA) is None
    caveats = report.scores_of([run], GLUE)[1]
    assert "Some GLUE scores are of one seed: their spread is not known." in caveats


def test_the_csv_alone_gives_the_same_rows_as_the_jobs(finished, tmp_path):
    jobs = read_frame(finished / "glue", GLUE)
    shutil.copy(finished / "glue" / "glue.csv", tmp_path)
    csv = read_frame(tmp_path, GLUE)
    scores = [column for column in jobs if column.startswith("score")]
    assert len(scores) > 9 and jobs["variant"].tolist() == csv["variant"].tolist()
    pd.testing.assert_frame_equal(jobs[scores].astype(float), csv[scores].astype(float), rtol=1e-12)
    assert read_frame(finished / "glue", QA) is None  # jobs of another suite aren't its own


def test_a_table_of_another_program_is_refused(tmp_path):
    (tmp_path / "glue.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"glue\.csv is not a table of python -m recipe\.report\.scores"):
        read_frame(tmp_path, GLUE)


def test_steps_become_tokens_where_a_step_grew():
    to_tokens, to_steps = _scales(np.array([10.0, 20.0, 30.0]), np.array([100.0, 400.0, 900.0]))
    assert to_tokens(np.array([-5.0, 0, 5, 10, 15, 20, 30, 40])).tolist() == [-50, 0, 50, 100, 250, 400, 900, 1400]
    steps = np.linspace(-10, 50, 13)
    assert to_steps(to_tokens(steps)) == pytest.approx(steps)


def test_a_command_can_be_typed_again():
    for script in ("sweep/__main__.py", "sweep.py"):  # as today's run.json has it, and an older one
        words = [f"/somewhere/recipe/{script}", "--runs", "my runs/a", "b", "--watch"]
        assert command_line(words) == "python -m recipe.sweep \\\n    --runs 'my runs/a' b \\\n    --watch"
    assert command_line(["/recipe/recipe/report/scores.py"]) == "python -m recipe.report.scores"
    assert command_line(["run_mlm.py"]) == "python run_mlm.py"


def call(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["recipe.report", *map(str, argv)])
    report.main()


def test_several_runs_beside_each_other(copy, tmp_path, monkeypatch):
    """What differs comes first; the figures, the curves and the scores of both are on one page."""
    finished, other = copy, tmp_path / "other"
    shutil.copytree(copy, other)
    told = json.loads((other / "run.json").read_text())
    told["meaning"] |= {"learning_rate": 0.5, "model": {"num_hidden_layers": 7}}
    (other / "run.json").write_text(json.dumps(told))
    told["meaning"] |= {"learning_rate": 0.001, "model": {"num_hidden_layers": 1, "its_own": 3}}
    (finished / "run.json").write_text(json.dumps(told))
    call(monkeypatch, finished, other, "--output_file", other / "both.html")
    page = Page((other / "both.html").read_text())
    assert page.text.startswith("toy and other: report toy and other")
    differ = page.scores("setting")
    assert differ["learning_rate"] == {"setting": "learning_rate", "toy": "0.001", "other": "0.5"}
    assert differ["model num_hidden_layers"]["other"] == "7" and len(differ) == 2
    assert page.scores("figure")["eval loss"] == {"figure": "eval loss", "toy": "5.500 nats", "other": "5.500 nats"}
    alts = [picture["alt"] for picture in page.all("img")]
    assert alts[0].startswith("Eval loss: toy 6.25 at step 10, 5.5 at step 20; other 6.25 at step 10")
    assert "toy/checkpoint-20" in page.scores() and "the pre-training of other" in page.text
    with pytest.raises(UserError, match="found runs of one name"):
        call(monkeypatch, finished, finished)


def test_the_values_under_the_pointer(page):
    """What the script reads: each picture's axes lie inside it, and its lines have the log's points."""
    loss, *_, glue = [
        json.loads(attributes["data-wide"]) for attributes in page.all("div") if "data-wide" in attributes
    ]
    (axis,) = loss
    left, top, right, bottom = axis["box"]
    assert 0 < left < right < 1 and 0 < top < bottom < 1 and not axis["log"] and axis["x"][0] == 0
    assert axis["lines"]["evaluation"] == [[10, 6.25], [20, 5.5]] and len(axis["lines"]["training"]) == 3
    assert [list(axis["lines"]) for axis in glue] == [["toy"]] * 5  # the mean and four columns


def test_the_program_writes_one_file(copy, monkeypatch, capsys, tmp_path, no_curve):
    before = set(copy.rglob("*"))
    call(monkeypatch, copy, "--max_checkpoints", 1)
    assert set(copy.rglob("*")) - before == {copy / "report.html"} and "report.html: 0." in capsys.readouterr().out
    call(monkeypatch, copy, "--max_checkpoints", 0, "--output_file", tmp_path / "x.html")
    assert Page((tmp_path / "x.html").read_text()).scores() == Page((copy / "report.html").read_text()).scores()


def test_mistakes(copy, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for argv, message in (
        ((tmp_path / "none",), "found no folder .*none: expected that of a run"),
        ((tmp_path / "empty",), "found no log.jsonl in .*empty: expected a run's folder"),
        ((copy, "--sentences", "no blank"), "found no blank in 'no blank'"),
        ((copy, "--top_k", "0"), "found --top_k 0"),
        ((copy, "--output_file", tmp_path / "no" / "x.html"), "found no folder .*no for --output_file"),
        ((), "required: run"),
    ):
        with pytest.raises(UserError, match=message):
            call(monkeypatch, *argv)
    assert not list(tmp_path.rglob("*.html"))


# ---- in a real browser

LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 (AA)

# The lowest contrast of text and what is behind it, and the text.
CONTRAST = """() => {
  const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { const c = rgb(getComputedStyle(e).backgroundColor);
    return c.length == 4 && c[3] == 0 ? (e.parentElement ? behind(e.parentElement) : [255, 255, 255]) : c; };
  const texts = [...document.body.querySelectorAll('*')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()));
  return texts.map(e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent.trim().slice(0, 30)]; }).sort((x, y) => x[0] - y[0])[0];
}"""


@pytest.fixture(scope="module")
def browser():
    """Playwright's own Chromium, or the system's."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        found = own if Path(own).exists() else next(filter(None, map(shutil.which, names)), None)
        if not found:
            pytest.skip("no browser: run `playwright install chromium`, or install your system's chromium")
        chromium = playwright.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_in_a_browser(finished, browser, tmp_path, width, scheme):
    file = tmp_path / "report.html"
    file.write_text(report_of([finished], ReportArguments()))
    asked, said = [], []
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] and not said

    pictures = page.locator("img").all()
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.evaluate("e => e.complete && e.naturalWidth > 100 && e.naturalHeight > 100")
        box = picture.bounding_box()
        assert box["width"] > 250 and box["height"] > 150
        pixels = (imread(io.BytesIO(picture.screenshot()))[..., :3] * 255).round().reshape(-1, 3)
        coloured = pixels.max(axis=1) - pixels.min(axis=1) > 60  # the curves; letters and axes are grey
        assert 0.001 < coloured.mean() < 0.5 and len(np.unique(pixels, axis=0)) > 50
    box = pictures[-1].bounding_box()
    assert (box["height"] > box["width"]) == (width == 390)  # one column of panels on a phone, three on a desk

    csv = pd.read_csv(finished / "glue" / "glue.csv")
    table = page.get_by_role("region", name="GLUE scores of each checkpoint")
    head = table.locator("thead th").all_inner_texts()
    for row in table.locator("tbody tr").all():
        name, *cells = row.locator("th, td").all_inner_texts()
        for task, column in (("cola", "CoLA"), ("rte", "RTE"), ("mnli", "MNLI-m")):
            scores = csv[(csv["checkpoint"] == name) & (csv["task"] == task)]["score"] * 100
            assert cells[head.index(column) - 1] == f"{scores.mean():.1f} ± {scores.std():.1f} (2)"
    assert table.locator("tbody tr").count() == 3

    assert page.evaluate("document.documentElement.scrollWidth") == width  # wide tables scroll in their own boxes
    assert table.evaluate("e => e.scrollWidth > e.clientWidth") == (width == 390)
    contrast, text = page.evaluate(CONTRAST)
    assert contrast >= LEAST_CONTRAST, f"{text}: {contrast:.2f}"
    page.close()
