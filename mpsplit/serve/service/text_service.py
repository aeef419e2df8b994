"""What the endpoints of an encoder or a cross-encoder need beside what every server has.

Made once, when the server starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mpsplit.runtime.loop.loop_protocol import Ticket
from mpsplit.runtime.pipeline.stage_loop import Batch, BatchListener
from mpsplit.runtime.pipeline.text_model import TextModel
from mpsplit.serve.service.any_service import AnyService
from mpsplit.serve.service.served_loop import TurningLoop


class ServedStages(TurningLoop, Protocol):
    def submit(self, batch: Batch, listener: BatchListener) -> Ticket:
        """Raises Full, Ending, or a RunError that says what is wrong with the batch."""


@dataclass(frozen=True)
class TextService(AnyService):
    loop: ServedStages
    texts: TextModel

    @property
    def context(self) -> int:
        return self.texts.longest

    @property
    def task(self) -> str:
        return self.texts.task
