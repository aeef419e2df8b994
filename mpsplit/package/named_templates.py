"""Chat templates by name, for models whose tokenizer has none.

In: a name, or what is known of a model. Out: Jinja2 text.

Each writes, to the letter, what the model's makers published: FastChat's conversation for Vicuna,
the tokenizer_config.json of the others. `bos_token` and `eos_token` are the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from mpsplit.errors import RunError
from mpsplit.families import FAMILIES

VICUNA = r"""
{%- set system = 'A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, ' +
    'and polite answers to the user\'s questions.' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}{% endif %}
{{- bos_token + system + ' ' }}
{%- for message in turns %}
    {%- if message.role == 'user' %}{{ 'USER: ' + message.content + ' ' }}
    {%- elif message.role == 'assistant' %}{{ 'ASSISTANT: ' + message.content + eos_token }}
    {%- else %}{{ raise_exception('only system (first), user and assistant speak, not ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""  # noqa: E501 (Jinja's lines are the format)

CHATML = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA_2 = r"""
{%- set system = '' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}
    {%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}
{%- endif %}
{%- for message in turns %}
    {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') %}
        {{- raise_exception('after a system message user and assistant speak by turns') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + ((system if loop.first else '') + message.content).strip() + ' [/INST]' }}
    {%- else %}{{ ' ' + message.content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

LLAMA_3 = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content.strip() + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

MISTRAL = r"""
{%- set system = '' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}{% endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') %}
        {{- raise_exception('after a system message user and assistant speak by turns') }}
    {%- endif %}
    {%- if message.role == 'user' %}{{ ' [INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}
    {%- else %}{{ ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}"""  # noqa: E501 (Jinja's lines are the format)

QWEN = r"""
{%- set system = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}{% endif %}
{{- '<|im_start|>system\n' + system }}
{%- if tools %}
    {{- '\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}
    {%- for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\n<tool_call>\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {{- '' if loop.previtem and loop.previtem.role == 'tool' else '<|im_start|>user' }}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {{- '' if loop.nextitem and loop.nextitem.role == 'tool' else '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role }}
        {{- '\n' + message.content if message.content or not message.tool_calls }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}' }}
            {{- '\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""  # noqa: E501 (Jinja's lines are the format)

TEMPLATES = {
    "vicuna-v1.1": VICUNA,
    "vicuna-v1.5": VICUNA,  # trained on another Llama, with the same words
    "chatml": CHATML,
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "mistral": MISTRAL,
    "qwen": QWEN,
}
# what ends a turn where it is not the model's own end of text
TURN_ENDS = {"chatml": "<|im_end|>", "qwen": "<|im_end|>", "llama-3": "<|eot_id|>"}


def named_template(name: str) -> str:
    if name not in TEMPLATES:
        raise RunError(f"there is no chat template {name!r}; choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def guess_template(names: Iterable[str], architecture: str, vocabulary: Container[str]) -> str | None:
    """The name of the template that a model without one was certainly trained with; None where it
    could be several.

    A vocabulary that has a template's marks as tokens was made for it; Vicuna added none to
    Llama's, but says its name.
    """
    if "<|start_header_id|>" in vocabulary and "<|eot_id|>" in vocabulary:
        return "llama-3"
    if "<|im_start|>" in vocabulary and "<|im_end|>" in vocabulary:
        family = FAMILIES.get(architecture)
        return family.template if family else "chatml"
    matches = (re.search(r"vicuna-\d+b-(v1\.[1-5])", name.lower()) for name in names)
    return next(("vicuna-v1.1" if match[1] == "v1.1" else "vicuna-v1.5" for match in matches if match), None)
