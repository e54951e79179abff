"""Records of every GLUE task, and what W&B wrote, read back from its files."""

import json
import struct
import time

from glue_toys import record

from recipe.finetune.glue.tasks import TASKS


def every_task(**changes):
    return [record(task, **changes) for task in TASKS if task != "ax"]


def read_wandb(file):
    """Every record of a .wandb file, once its first and its last are there: on a busy machine W&B's own process writes
    them a moment after the run has finished."""
    end = time.monotonic() + 60
    records = records_of(file)
    while not {"run", "exit"} <= {record.WhichOneof("record_type") for record in records}:
        assert time.monotonic() < end, "waited in vain for the end of the run"
        time.sleep(0.1)
        records = records_of(file)
    return records


def records_of(file):
    """LevelDB log framing: a 7-byte header, blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, records, whole, place = file.read_bytes(), [], b"", 7
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or last
            parsed = Record()
            parsed.ParseFromString(whole)
            records.append(parsed)
            whole = b""
    return records


def history_of(records):
    rows = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row.item} for row in rows]
