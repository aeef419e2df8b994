"""Templates: what those of the table write, to the letter; what transformers' extras do; that
hostile ones hurt nobody."""

import threading

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from mpsplit.errors import RunError
from mpsplit.package.named_templates import TEMPLATES
from mpsplit.runtime.talk.template_renderer import Renderer

TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "Who are you"},
]
SYSTEM = [{"role": "system", "content": "Be brief."}]
VICUNAS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
QWENS = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
VICUNA = " USER: Hello ASSISTANT: Hi there</s>USER: Who are you ASSISTANT:"
CHATML = (
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi there<|im_end|>\n"
    "<|im_start|>user\nWho are you<|im_end|>\n<|im_start|>assistant\n"
)
LLAMA_3 = (
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi"
    " there<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWho are"
    " you<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
# name -> what it writes of TALK, without and with SYSTEM before it
GOLDEN = {
    "vicuna-v1.1": ("<s>" + VICUNAS + VICUNA, "<s>Be brief." + VICUNA),
    "vicuna-v1.5": ("<s>" + VICUNAS + VICUNA, "<s>Be brief." + VICUNA),
    "chatml": (CHATML, "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML),
    "llama-2": (
        "<s>[INST] Hello [/INST] Hi there </s><s>[INST] Who are you [/INST]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi there </s><s>[INST] Who are you [/INST]",
    ),
    "llama-3": ("<s>" + LLAMA_3, "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>" + LLAMA_3),
    "mistral": (
        "<s> [INST] Hello [/INST] Hi there</s> [INST] Who are you [/INST]",
        "<s> [INST] Be brief.\n\nHello [/INST] Hi there</s> [INST] Who are you [/INST]",
    ),
    "qwen": (
        f"<|im_start|>system\n{QWENS}<|im_end|>\n" + CHATML,
        "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML,
    ),
}


@pytest.fixture(scope="module")
def renderer():
    return Renderer()


def variables(messages, **more):
    return {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True} | more


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_table_writes_what_the_makers_published(renderer, name):
    alone, with_system = GOLDEN[name]
    assert renderer.render(TEMPLATES[name], variables(TALK)) == alone
    assert renderer.render(TEMPLATES[name], variables(SYSTEM + TALK)) == with_system
    unasked = renderer.render(TEMPLATES[name], variables(TALK, add_generation_prompt=False))
    assert alone.startswith(unasked) and unasked.rstrip().endswith(
        ("Who are you", "<|im_end|>", "<|eot_id|>", "[/INST]")
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_spaces_of_the_user_stay_where_the_makers_left_them(renderer, name):
    written = renderer.render(TEMPLATES[name], variables([{"role": "user", "content": "  a \n"}]))
    assert ("  a \n" in written) == (name not in ("llama-2", "llama-3"))


@pytest.mark.parametrize("name", ["vicuna-v1.5", "llama-2", "mistral"])
def test_a_conversation_that_cannot_be_is_refused(renderer, name):
    with pytest.raises(RunError, match="the chat template refuses the conversation: "):
        renderer.render(TEMPLATES[name], variables([TALK[0], SYSTEM[0]]))


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLED = [
    {"role": "user", "content": "1+2, 3+4?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": n, "é": "<"}}} for n in (1, 3)
        ],
    },
    {"role": "tool", "content": "3"},
    {"role": "tool", "content": "7"},
]


def test_qwen_explains_tools_and_shows_calls_and_results(renderer):
    written = renderer.render(TEMPLATES["qwen"], variables(CALLED, tools=[TOOL]))
    assert (
        written
        == f"<|im_start|>system\n{QWENS}\n\n# Tools\n\nYou may call one or more functions to assist with the user"
        " query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties":'
        " {}}}}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call>"
        " XML tags:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n1+2, 3+4?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "é": "<"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 3, "é": "<"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n7\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


EXTRAS = """\
{%- for message in messages %}
    {%- if loop.index0 == 1 %}{% continue %}{% endif %}
    {%- if loop.index0 > 4 %}{% break %}{% endif %}
    {% generation %}{{ message | tojson }}{% endgeneration %}
{% endfor %}
{%- set ns = namespace(n=0) %}{% for x in range(5) %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}
{{ tools | tojson(indent=2) }}{{ strftime_now('%Y') }}{{ dict(a=1) }}{{ documents }}
{%- macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice(messages[-1].content[::-1] | upper) }}"""


def test_what_templates_use_works_as_in_transformers(renderer):
    given = variables(SYSTEM + TALK * 2 + [{"role": "user", "content": "<é>&'\""}], tools=[TOOL], documents=None)
    assert renderer.render(EXTRAS, given) == _compile_jinja_template(EXTRAS).render(**given)


HOSTILE = {
    "{{ ''.__class__.__mro__ }}": "reaches for '__class__' of a str",
    "{{ messages.append(1) }}": "fails on this conversation",
    "{{ self._TemplateReference__context }}": "reaches for",
    "{% for i in range(10**9) %}x{% endfor %}": "fails on this conversation: Range too big",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "it takes more than 0.5 s",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}": "recursion|it takes more than",
    "{{ 9 ** (9 ** (9 ** 9)) }}": "it takes more than 0.5 s",
    "{{ 'x' * 10**10 }}": "it takes more than 512 MB",
    "{{ '%10000000000d' % 1 }}": "it takes more than 512 MB",
    "{{ 'a'.ljust(10**7) }}": "it writes more than 100000 characters",
    "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}": "it writes more than 100000 characters",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}": "512 MB",
    "{{ raise_exception('a\nb') }}": "refuses the conversation: a$",
    "{{ messages.nothing.more }}": "fails on this conversation: 'list object' has no attribute 'nothing'",
    "{% for %}": "is no template",
    "{% include 'x' %}": "fails on this conversation",
}


@pytest.mark.parametrize("template", HOSTILE)
def test_hostile_templates_are_refused_in_one_line_and_the_next_one_works(template):
    # the clock ends those alone that nothing else would
    seconds = 0.5 if "0.5 s" in HOSTILE[template] else 60
    renderer = Renderer(seconds=seconds, characters=100_000)
    with pytest.raises(RunError, match=HOSTILE[template]) as refused:
        renderer.render(template, variables(TALK))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    assert renderer.render("{{ messages[0].content }}", variables(TALK)) == "Hello"


def test_a_template_sees_nothing_of_the_environment(renderer, monkeypatch):
    from mpsplit.runtime.talk.template_renderer import _end, _start

    monkeypatch.setenv("MPSPLIT_KEY", "secret")
    process = _start()
    with open(f"/proc/{process.pid}/environ") as file:
        assert "secret" not in file.read()
    _end(process)
    assert process.returncode == 0


def test_threads_get_their_own_answers(renderer):
    texts = {}

    def ask(n):
        texts[n] = [renderer.render("{{ n }}", {"n": n}) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {n: [str(n)] * 20 for n in range(4)}
