"""`mpsplit chat`: a conversation in the terminal.

In: a package, lines. Out: answers, until /exit or the end of the input.
"""

from __future__ import annotations

import argparse

from mpsplit import mpirun
from mpsplit.options.loop_options import add_leading, lead
from mpsplit.options.package_argument import add_package, package_for_ranks
from mpsplit.options.prefix_option import add_prefix, prefix_of
from mpsplit.options.rank_options import add_ranks, on_ranks, take_threads
from mpsplit.options.settings_options import layers_of
from mpsplit.runtime.talk.answer_settings import merged


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_ranks(parser)
    add_leading(parser)
    add_prefix(parser)


def chat_command(args: argparse.Namespace) -> int:
    take_threads(args)
    manifest = package_for_ranks(args)
    layers, prefix = layers_of(args), prefix_of(args)
    merged(*layers)  # refuses before the work
    if (code := on_ranks(manifest.plan.ranks, args, reads_input=True)) is not None:
        return code
    from mpsplit.serve.chat import Conversation, chat

    loop = lead(args)
    if loop is None:
        return 0
    conversation = Conversation(loop, *layers)
    if prefix:
        conversation.begin_with(prefix)
    chat(conversation, mpirun.input_lines())
    loop.end()
    return 0
