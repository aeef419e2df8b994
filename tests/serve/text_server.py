"""A server of a model that reads texts, without weights: states and scores are formulas of ids.

In: what it is for. Out: its address, its service; what a text must give.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mpsplit.comm import Alone
from mpsplit.package.stages.pipeline import FLOAT, WHOLE, Pipeline, Stage, Value
from mpsplit.package.stages.sentence_settings import SentenceSettings
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun
from mpsplit.runtime.pipeline.stage_loop import StageLoop
from mpsplit.runtime.pipeline.text_model import EMBED, TextModel
from mpsplit.serve.http.security import allowed_hosts
from mpsplit.serve.http.serving import listen, serving, url
from mpsplit.serve.service.text_service import TextService
from tests.networks import LETTERS, write_tokenizer

SIZE, LONGEST = 4, 32
SETTINGS = SentenceSettings(("mean",), normalise=True, longest=24)
IDS = ("input_ids", "token_type_ids")


class Ids:
    """States [1, length, SIZE] of the ids alone; or one number: how many ids of the first text the
    second has too, less 3."""

    def __init__(self, task: str):
        self.task = task

    def run(self, given, length):
        ids, types = (given[name][0] for name in IDS)
        if self.task == EMBED:
            return {"states": np.stack([ids, ids % 7, ids % 3, ids * 0 + 1], 1)[None].astype(np.float32)}
        first, second = (set(ids[types == kind].tolist()) - {2, 3} for kind in (0, 1))
        return {"logits_0": np.array([[len(first & second) - 3]], np.float32)}


def written(folder: Path, task: str) -> Pipeline:
    """What such a server reads of a package."""
    values = {name: Value(WHOLE, (1, "length")) for name in IDS}
    output, name = ("states", "last_hidden_state") if task == EMBED else ("logits_0", "logits")
    values[output] = Value(FLOAT, (1, "length", SIZE) if task == EMBED else (1, 1))
    stage = Stage("all", 0, IDS, (output,))
    pipeline = Pipeline(values, IDS, {name: output}, (stage,), LONGEST, sentences=SETTINGS if task == EMBED else None)
    pipeline.check().save(folder)
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(LETTERS)}))
    return pipeline


@contextmanager
def text_served(folder: Path, task: str, waiting: int = 8, **settings):
    """(its address, its service) until the block is left."""
    pipeline = written(folder, task)
    loop = StageLoop(PipelineRun(pipeline, [Ids(task)], Alone()), 4, waiting)
    sock, address = listen("127.0.0.1", 0)
    hosts = allowed_hosts("127.0.0.1", address, ())
    service = TextService(loop, "reader", TextModel(folder, Pipeline.load(folder)), **{"hosts": hosts} | settings)
    worker = threading.Thread(target=loop.work, args=[service.ending])
    with serving(service, sock):
        worker.start()
        yield url(sock), service
    worker.join()


def vector_of(service: TextService, text: str) -> np.ndarray:
    given = service.texts.read(text)
    mean = Ids(EMBED).run(given, 0)["states"][0].mean(0)
    return mean / np.linalg.norm(mean)
