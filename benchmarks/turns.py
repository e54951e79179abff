"""A training that runs a given number of steps and then waits: two of them in turn make fair pairs.

Ours is run_mlm.py itself, started with the flags a user gives; stock is the Hugging Face Trainer with the same model,
dataset rows, DataCollatorForLanguageModeling and the dense head. Both are watched by one callback and by a clock around
the Trainer's own fetching of batches. Each lives in a process of its own, and the one that isn't at work sleeps.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import ROOT, forget_peak, memory, synchronize

sys.path.insert(0, str(ROOT))

MASK_RATE = 0.15
MANY_STEPS = 1_000_000  # nobody gets there: a training ends when its parent hangs up
STOCK_ROWS = 4096  # blocks that the stock side holds: its cost a row doesn't depend on how many there are


@dataclass(frozen=True)
class Setting:
    """What is trained and how; both sides get the same."""

    model: str
    length: int
    micro_batch: int
    tokenizer: str  # a folder
    dataset: str
    prepared_dir: str
    accumulation: int = 1
    bf16: bool = False
    compile: bool = False
    zero2: bool = False
    dropout: float = 0.0
    optim: str = "adamw_torch_fused"
    workers: int = 0

    @property
    def tokens_a_step(self) -> int:
        return self.length * self.micro_batch * self.accumulation


class Training:
    """One side, in a process of its own; `turn` lets it take steps.

    `without` names what ours leaves out, of CHANGES. Raises SystemExit with the end of the process's output when it
    dies.
    """

    def __init__(self, side: str, setting: Setting, without: str = ""):
        self.setting = setting
        self.folder = tempfile.TemporaryDirectory()
        self.said = Path(self.folder.name) / "output.txt"
        reading, writing = os.pipe()
        request = {
            "side": side,
            "without": without,
            "setting": asdict(setting),
            "folder": self.folder.name,
            "fd": writing,
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(request)],
            cwd=ROOT,
            env=os.environ | _alone() if setting.zero2 else None,
            stdin=subprocess.PIPE,
            stdout=self.said.open("w"),
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)
        self.answers = os.fdopen(reading)
        self.about = self._answer()  # flops_per_token, parameters, first_step_seconds

    def turn(self, steps: int) -> dict:
        """Takes `steps` steps: tokens_per_second, tokens_per_cpu_second, waiting (share of the time spent fetching
        batches), and the peak memory of the training so far, in bytes: of the process and above what it had when the
        training began."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        seconds, tokens = answer.pop("seconds"), steps * self.setting.tokens_a_step
        return answer | {
            "tokens_per_second": tokens / seconds,
            "tokens_per_cpu_second": tokens / answer.pop("cpu_seconds"),
            "waiting": answer["waiting"] / seconds,
        }

    def _answer(self) -> dict:
        line = self.answers.readline()
        if not line:
            self.process.wait()
            raise SystemExit(f"a training ended with exit code {self.process.returncode}:\n{self.tail()}")
        return json.loads(line)

    def tail(self) -> str:
        return self.said.read_text()[-3000:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.answers.close()
        self.folder.cleanup()


def _alone() -> dict[str, str]:
    """Environment variables that DeepSpeed needs for a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def prepare_setting(work: Path, dataset: str, vocabulary: int, tokens: bool = True) -> tuple[str, str]:
    """(tokenizer folder, prepared_dir) for a dataset: a byte-level BPE of exactly `vocabulary` tokens, made once, and
    the dataset's `tokens`."""
    from recipe.data.corpus import open_corpus
    from recipe.data.inputs import SPLIT_SEED
    from recipe.data.preparation import prepare_tokens
    from recipe.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
    from recipe.system.runtime import quiet_libraries

    quiet_libraries()
    work.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(dataset)
    folder = work / f"tokenizer-{corpus.name}-{vocabulary}"
    if not folder.exists():
        print(f"making a tokenizer of {vocabulary:,} tokens, once", file=sys.stderr)
        trained = train_tokenizer(corpus.train.texts, kind="bpe", vocab_size=vocabulary, min_frequency=1)
        save_tokenizer(trained, folder)
    if tokens:
        prepare_tokens(corpus, load_tokenizer(str(folder)), work, seed=SPLIT_SEED)
    return str(folder.absolute()), str(work.absolute())


# ---- the process that trains


def child() -> None:
    request = json.loads(sys.argv[1])
    setting = Setting(**request["setting"])
    watch(setting, os.fdopen(request["fd"], "w"))
    if request["side"] == "ours":
        if request["without"]:
            CHANGES[request["without"]]()
        sys.argv = ["run_mlm.py", *ours_flags(setting), *training_flags(setting, request["folder"])]
        runpy.run_path(str(ROOT / "run_mlm.py"), run_name="__main__")
    else:
        stock(setting, training_flags(setting, request["folder"]))


def watch(setting: Setting, reports) -> None:
    """Puts a callback into every Trainer that this process makes, and a clock around its fetching of batches."""
    import transformers.trainer
    from transformers import Trainer, TrainerCallback

    waited = 0.0
    fetch = Trainer.get_batch_samples

    def timed(*args, **kwargs):
        nonlocal waited
        began = time.perf_counter()
        try:
            return fetch(*args, **kwargs)
        finally:
            waited += time.perf_counter() - began

    class Turns(TrainerCallback):
        left = 1

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            from recipe.model.flops import flops_per_token

            predicted = max(1, round(MASK_RATE * setting.length))
            self.about = {
                "flops_per_token": flops_per_token(model, setting.length, predicted),
                "parameters": model.num_parameters(),
            }
            forget_peak()
            self.base = memory("VmRSS")
            self.began, self.began_cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, args, state, control, **kwargs):
            nonlocal waited
            self.left -= 1
            if self.left:
                return
            synchronize()
            seconds = time.perf_counter() - self.began
            cpu_seconds = time.process_time() - self.began_cpu
            answer = {"seconds": seconds, "cpu_seconds": cpu_seconds, "waiting": waited, **peak(self.base)}
            if state.global_step == 1:
                answer = self.about | {"first_step_seconds": seconds}
            reports.write(json.dumps(answer) + "\n")
            reports.flush()
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self.left, waited = int(line), 0.0
            self.began, self.began_cpu = time.perf_counter(), time.process_time()

    Trainer.get_batch_samples = timed
    transformers.trainer.DEFAULT_CALLBACKS.append(Turns)


def peak(base: int) -> dict[str, int]:
    """Bytes: of a GPU its allocations; else of the process, and what it had more than `base`."""
    import torch

    if torch.cuda.is_available():
        allocated = torch.cuda.max_memory_allocated()
        return {"peak": allocated, "step_memory": allocated}
    return {"peak": memory("VmHWM"), "step_memory": memory("VmHWM") - base}


def training_flags(setting: Setting, folder: str) -> list[str]:
    """The TrainingArguments of both sides."""
    import torch

    flags = {
        "--output_dir": folder,
        "--max_steps": MANY_STEPS,
        "--learning_rate": 1e-4,
        "--per_device_train_batch_size": setting.micro_batch,
        "--gradient_accumulation_steps": setting.accumulation,
        "--bf16": setting.bf16 and not setting.zero2,
        "--torch_compile": setting.compile,
        "--optim": setting.optim,
        "--dataloader_num_workers": setting.workers,
        "--use_cpu": not torch.cuda.is_available(),
        "--save_strategy": "no",
        "--logging_steps": 25,
        "--report_to": "none",
        "--disable_tqdm": True,
    }
    if setting.zero2:
        path = ROOT / "ds_config" / "zero2_bf16.json"
        config = json.loads(path.read_text()) | {"bf16": {"enabled": setting.bf16}}
        path = Path(folder) / "zero2.json"
        path.write_text(json.dumps(config))
        flags |= {"--deepspeed": path, "--bf16": setting.bf16}
    return [str(part) for pair in flags.items() for part in pair]


def ours_flags(setting: Setting) -> list[str]:
    flags = {
        "--config_name": setting.model,
        "--tokenizer_name": setting.tokenizer,
        "--dataset_name": setting.dataset,
        "--prepared_dir": setting.prepared_dir,
        "--max_seq_length": setting.length,
        "--dropout": setting.dropout,
    }
    return ["--do_train", *(str(part) for pair in flags.items() for part in pair)]


def stock(setting: Setting, flags: list[str]) -> None:
    import torch
    from transformers import DataCollatorForLanguageModeling, HfArgumentParser, Trainer, TrainingArguments

    from recipe.data.tokenizer import load_tokenizer
    from recipe.model.config import fit_to_tokenizer, load_config, set_dropout
    from recipe.model.loading import build_model
    from recipe.system.runtime import quiet_libraries
    from recipe.train.deepspeed import avoid_compiling

    quiet_libraries()
    if setting.zero2 and not torch.cuda.is_available():
        avoid_compiling()
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(flags)
    tokenizer = load_tokenizer(setting.tokenizer)
    config = load_config(setting.model)
    fit_to_tokenizer(config, tokenizer, setting.model)
    set_dropout(config, setting.dropout)
    Trainer(
        model=build_model(config),
        args=args,
        train_dataset=stock_rows(setting, tokenizer),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASK_RATE),
    ).train()


def stock_rows(setting: Setting, tokenizer):
    """The same blocks as the rows that the example script's group_texts makes: a datasets.Dataset, or a list where
    datasets isn't installed."""
    import numpy as np

    from recipe.data.blocks import Blocks
    from recipe.data.corpus import open_corpus
    from recipe.data.inputs import SPLIT_SEED
    from recipe.data.preparation import prepare_tokens
    from recipe.data.tokenizer import block_ends

    prepared = prepare_tokens(open_corpus(setting.dataset), tokenizer, Path(setting.prepared_dir), seed=SPLIT_SEED)
    blocks = Blocks(prepared.checked("train"), setting.length, block_ends(tokenizer), tokenizer.pad_token_id)
    ids = blocks.rows(np.arange(min(len(blocks) - 1, STOCK_ROWS))).astype(np.int32)
    special = np.isin(ids, tokenizer.all_special_ids).astype(np.int8)
    columns = {"input_ids": ids, "attention_mask": np.ones_like(special), "special_tokens_mask": special}
    try:
        from datasets import Dataset
    except ImportError:
        return [{name: column[row].tolist() for name, column in columns.items()} for row in range(len(ids))]
    return Dataset.from_dict({name: list(column) for name, column in columns.items()})


# ---- what ours can leave out, to see what it gives


def dense_head() -> None:
    """The vocabulary projection on every position, and a label for each: stock's way, in our loop."""
    import types

    import torch
    from torch.nn import functional

    from recipe.model import heads

    def use_dense_head(model):
        head, decoder = heads.FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()

        def forward(self, input_ids, masked_positions, labels, attention_mask=None):
            dense = torch.full_like(input_ids, -100).scatter(1, masked_positions, labels)
            logits = decoder(head(self.base_model(input_ids, attention_mask=attention_mask)[0].flatten(0, 1))).float()
            return {"loss": functional.cross_entropy(logits, dense.flatten(), ignore_index=-100, reduction="sum")}

        model.forward = types.MethodType(forward, model)
        return model

    heads.use_masked_only_head = use_dense_head


def attention_mask() -> None:
    """An attention mask of ones, as stock passes."""
    import torch

    from recipe.objective.masked_sequences import MaskedSequences

    get = MaskedSequences.__getitems__

    def with_mask(self, sequences):
        batch = get(self, sequences)
        return {"attention_mask": torch.ones_like(batch["input_ids"])} | batch

    MaskedSequences.__getitems__ = with_mask


CHANGES = {"masked-only head": dense_head, "no attention mask": attention_mask}


if __name__ == "__main__":
    child()
