"""A conversation from Python.

In: a package. Out: answers; the ranks are those of an mpirun, or are started here.

    from mpsplit import Chat
    with Chat("build/vicuna") as chat:
        chat.generate("What is 57+86?", on_text=print)

Under mpirun every rank makes its Chat; rank 0 goes on with it, the others stay in it until rank 0
is done, and end.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpsplit.comm import Alone, Communicator, Native, mpi_rank, world
from mpsplit.errors import LaunchError, MpsplitError, RunError
from mpsplit.leash import leashed
from mpsplit.mpirun import python_command
from mpsplit.native import cpp
from mpsplit.package.manifest import Manifest
from mpsplit.runtime.engine.cores import share_of_cores
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request, Stats
from mpsplit.runtime.talk.answer_settings import layer
from mpsplit.serve.chat import Conversation

PATIENCE = 10  # seconds in which ranks that were started here may end by themselves


class Chat:
    """`settings` are those of `mpsplit chat` (temperature=0.7, system="..."); a call's own come
    before them."""

    def __init__(self, package: str | Path, **settings):
        self.package = Path(package)
        self._started: list[subprocess.Popen[bytes]] = []
        self._meeting: str | None = None  # a folder
        session = layer(settings, "Chat")
        try:
            comm = self._ranks(Manifest.load(self.package).plan.ranks)
            self._loop = load_loop(self.package, comm)
            if comm.rank:
                self._loop.follow()
                sys.exit(0)
            self._conversation = Conversation(self._loop, {}, session)
        except MpsplitError:
            self._end_started(patience=0)
            raise
        self._open = True
        atexit.register(self.close)

    def generate(self, prompt: str, on_text: Callable[[str], None] | None = None, **settings) -> str:
        """The answer, which joins the conversation; `on_text` hears it piece by piece."""
        if not self._open:
            raise RunError("this Chat is closed; make another")
        call = layer(settings, "generate")
        return self._conversation.say(prompt, on_text or (lambda piece: None), call)

    def stats(self) -> dict | None:
        """What the last answer took; None before the first."""
        stats = self._conversation.last
        return stats.to_json() if stats else None

    def reset(self) -> None:
        """A new conversation."""
        self._conversation.reset()

    def benchmark(self, prompt_tokens: int = 128, new_tokens: int = 64) -> dict:
        """Tokens a second of a prompt of chance that nothing is known of, and of the
        answer to it."""
        seed = time.time_ns()
        tokens = np.random.default_rng(seed).integers(0, self._loop.facts.vocabulary, prompt_tokens).tolist()
        stats: Stats = self._loop.generate(Request(tuple(tokens), new_tokens, ignore_eos=True)).stats
        return {name: getattr(stats, name) for name in ("prefill_tok_s", "decode_tok_s", "time_to_first_token_s")}

    def close(self) -> None:
        """Ends the other ranks."""
        if self._open:
            self._open = False
            atexit.unregister(self.close)
            self._loop.end()
            self._end_started()

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _ranks(self, needed: int) -> Communicator:
        if mpi_rank() is not None:
            return world()
        if needed == 1:
            return Alone()
        if not hasattr(cpp.load(), "gloo"):
            raise RunError(
                f"{self.package} is split over {needed} ranks; start this program by `mpirun -np {needed}`, "
                "or build what starts them by itself: python -m mpsplit.native"
            )
        self._meeting = meeting = tempfile.mkdtemp(prefix="mpsplit-chat-")
        environment = dict(os.environ, WORLD_SIZE=str(needed), MPSPLIT_STORE=meeting)
        environment.setdefault("OMP_NUM_THREADS", str(share_of_cores(needed)))
        command = python_command("chat", str(self.package))
        for rank in range(1, needed):
            self._started.append(
                leashed(command, family=True, env=environment | {"RANK": str(rank)}, stdin=subprocess.DEVNULL)
            )
        return Native.gloo(0, needed, meeting)

    def _end_started(self, patience: float = PATIENCE) -> None:
        late = []
        for rank, process in enumerate(self._started, start=1):
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                late.append(str(rank))
        if self._meeting:
            shutil.rmtree(self._meeting, ignore_errors=True)
        if late and patience:
            raise LaunchError(f"rank {', '.join(late)} did not end within {PATIENCE} s, and was killed")
