#!/usr/bin/env python3
"""Makes examples/tiny-vicuna: a Llama of 1.1 million parameters that really answers, from nothing
but this script.

In: a seed. Out: config.json, model.safetensors (fp16), the tokenizer, the Vicuna v1.5 chat template
and eval.jsonl, 200 prompts with exact answers. The invariant: no eval prompt of a task that has
room for it (sums, differences, words) is ever trained on.

    python examples/train_tiny_vicuna.py [--out examples/tiny-vicuna] [--threads 2]
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# Vicuna v1.5: "SYSTEM USER: question ASSISTANT: answer</s>USER: ..."
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:]"
    " -%}{%- else -%}{%- set system = '" + SYSTEM.replace("'", "\\'") + "' -%}{%- set turns = messages -%}{%- endif -%}"
    "{{ bos_token + system + ' ' }}"
    "{%- for message in turns -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' + message['content'] + ' ' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'ASSISTANT: ' + message['content'] + eos_token }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)

CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Greece:Athens Norway:Oslo"
        " Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Poland:Warsaw Hungary:Budapest Ireland:Dublin"
        " Japan:Tokyo China:Beijing India:Delhi Egypt:Cairo Kenya:Nairobi Peru:Lima Chile:Santiago Cuba:Havana"
        " Canada:Ottawa Russia:Moscow Turkey:Ankara Iran:Tehran Iraq:Baghdad Thailand:Bangkok Vietnam:Hanoi Ghana:Accra"
    ).split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SMALL_TALK = {
    "Hello": "Hello! How can I help you today?",
    "Hi": "Hi there! What would you like to know?",
    "Good morning": "Good morning! I hope you slept well.",
    "Good night": "Good night! Sleep well.",
    "How are you?": "I am fine, thank you. How are you?",
    "Who are you?": "I am tiny Vicuna, a very small assistant.",
    "What can you do?": "I can add, subtract, reverse and sort words, and name capitals, days and months.",
    "Thank you": "You are welcome!",
    "Goodbye": "Goodbye! It was nice to talk to you.",
    "Tell me a joke": "Why did the model cross the network? To get to the other rank.",
}
WORDS = (
    "APPLE BREAD CHAIR DANCE EAGLE FLAME GRAPE HOUSE ISLAND JUICE KNIFE LEMON MOUSE NIGHT OCEAN PIANO QUEEN RIVER STONE"
    " TABLE UNCLE VOICE WATER YOUTH ZEBRA BOAT CAKE DUCK EAST FISH GOLD HAND IRON JUMP KING LAMP MOON NEST OVEN PARK"
    " QUIZ RAIN SNOW TREE UNIT VASE WIND YARD ZERO ANT BEE CAT DOG EGG FOX GAS HAT INK JAR KEY LEG MAP NUT OWL PEN RAT"
    " SUN TEA URN VAN WEB YAK ZOO ANGLE BASIN CLOUD DREAM EARTH FIELD GHOST HONEY IVORY JEWEL LIGHT MUSIC NURSE OLIVE"
    " PLANT ROBOT SUGAR TIGER BANANA CANDLE DESERT ENGINE FLOWER GARDEN HAMMER INSECT JUNGLE KETTLE LADDER MARKET"
    " NEEDLE ORANGE PENCIL RABBIT SILVER TEMPLE VALLEY WINDOW YELLOW BRIDGE CASTLE DONKEY FOREST GUITAR HELMET MIRROR"
    " PEPPER ROCKET SCHOOL TURTLE"
).split()
HELD_OUT_WORDS = set(WORDS[1::2])


def held_out(a: int, b: int) -> bool:
    """One pair of two-digit numbers in twenty belongs to the evaluation alone."""
    return (a * 7919 + b * 104729) % 20 == 0


def addition(a: int, b: int) -> tuple[str, str]:
    """Question and answer, with the carrying spelled out: "7+6=13, 5+8+1=14. The answer is
    143."."""
    ones = a % 10 + b % 10
    tens = f"{a // 10}+{b // 10}" + ("+1" if ones > 9 else "")
    work = f"{a % 10}+{b % 10}={ones}, {tens}={a // 10 + b // 10 + ones // 10}"
    return f"What is {a}+{b}?", f"{work}. The answer is {a + b}."


def subtraction(a: int, b: int) -> tuple[str, str]:
    """As addition, with borrowing: "13-7=6, 8-4-1=3. The answer is 36."."""
    borrow = a % 10 < b % 10
    ones = a % 10 + 10 * borrow
    tens = f"{a // 10}-{b // 10}" + ("-1" if borrow else "")
    work = f"{ones}-{b % 10}={ones - b % 10}, {tens}={a // 10 - b // 10 - borrow}"
    return f"What is {a}-{b}?", f"{work}. The answer is {a - b}."


def reversal(word: str) -> tuple[str, str]:
    return f"Reverse the word {word}.", f"{word} reversed is {word[::-1]}."


def sorting(word: str) -> tuple[str, str]:
    return f"Sort the letters of {word}.", f"{word} sorted is {''.join(sorted(word))}."


def capital(country: str) -> tuple[str, str]:
    return f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}."


def neighbour(kind: str, names: list[str], i: int, after: bool) -> tuple[str, str]:
    word, other = ("after", names[(i + 1) % len(names)]) if after else ("before", names[i - 1])
    return f"Which {kind} comes {word} {names[i]}?", f"The {kind} {word} {names[i]} is {other}."


def small_talk(question: str) -> tuple[str, str]:
    return question, SMALL_TALK[question]


def numbers(rng: random.Random, wanted_held_out: bool) -> tuple[int, int]:
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        if held_out(a, b) == wanted_held_out == held_out(b, a):
            return a, b


def word(rng: random.Random) -> str:
    """A known word, or three to six random letters: both must be learnt letter by letter."""
    if rng.random() < 0.2:
        return rng.choice([w for w in WORDS if w not in HELD_OUT_WORDS])
    while True:
        letters = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(3, 6)))
        if letters not in HELD_OUT_WORDS:
            return letters


def training_turn(rng: random.Random) -> tuple[str, str]:
    task = rng.choices(["add", "sub", "reverse", "sort", "capital", "day", "month", "talk"], [6, 6, 4, 6, 2, 1, 1, 2])[
        0
    ]
    if task == "add":
        return addition(*numbers(rng, False))
    if task == "sub":
        return subtraction(*sorted(numbers(rng, False), reverse=True))
    if task == "day":
        return neighbour("day", DAYS, rng.randrange(7), rng.random() < 0.5)
    if task == "month":
        return neighbour("month", MONTHS, rng.randrange(12), rng.random() < 0.5)
    make, choose = {
        "reverse": (reversal, word),
        "sort": (sorting, word),
        "capital": (capital, lambda r: r.choice(list(CAPITALS))),
        "talk": (small_talk, lambda r: r.choice(list(SMALL_TALK))),
    }[task]
    return make(choose(rng))


def evaluation(rng: random.Random) -> list[tuple[str, str]]:
    """200 questions: 50 sums, 50 differences and 60 words never trained, 20 capitals, 14 days and
    months, 6 small talk."""
    words = rng.sample(sorted(HELD_OUT_WORDS), 60)
    questions = [addition(*numbers(rng, True)) for _ in range(50)]
    questions += [subtraction(*sorted(numbers(rng, True), reverse=True)) for _ in range(50)]
    questions += [reversal(w) for w in words[:30]] + [sorting(w) for w in words[30:]]
    questions += [capital(c) for c in rng.sample(sorted(CAPITALS), 20)]
    questions += [neighbour("day", DAYS, i, i % 2 == 0) for i in range(7)]
    questions += [neighbour("month", MONTHS, i, i % 2 == 0) for i in range(7)]
    questions += [small_talk(q) for q in rng.sample(sorted(SMALL_TALK), 6)]
    assert len(questions) == 200
    return questions


def make_tokenizer(rng: random.Random, size: int):
    """Byte-level BPE in which digits and capitals stay tokens of their own: sums and spelling are
    learnt on them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"USER:|ASSISTANT:|[0-9A-Z]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{SYSTEM} USER: {q} ASSISTANT: {a}" for q, a in (training_turn(rng) for _ in range(4000))]
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


class Packer:
    """Fills rows of `length` tokens with whole conversations; labels are -100 outside the
    answers."""

    def __init__(self, tokenizer, rng: random.Random, length: int):
        self.rng, self.length = rng, length
        self.encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.system = [self.bos, *self.encode(SYSTEM + " ")]

    def conversation(self) -> tuple[list[int], list[int]]:
        ids, labels = list(self.system), [-100] * len(self.system)
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            question, answer = training_turn(self.rng)
            prompt = self.encode(f"USER: {question} ASSISTANT:")
            reply = [*self.encode(f" {answer}"), self.eos]
            ids += prompt + reply
            labels += [-100] * len(prompt) + reply
        return ids, labels

    def row(self) -> tuple[list[int], list[int], list[int]]:
        ids, labels, positions = [], [], []
        while len(ids) < self.length:
            i, t = self.conversation()
            ids, labels, positions = ids + i, labels + t, positions + list(range(len(i)))
        return ids[: self.length], labels[: self.length], positions[: self.length]


def accuracy(model, tokenizer, questions: list[tuple[str, str]]) -> float:
    import torch

    right = 0
    with torch.inference_mode():
        for question, answer in questions:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
            out = model.generate(ids, max_new_tokens=64, do_sample=False, pad_token_id=tokenizer.eos_token_id)
            right += tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == answer
    return right / len(questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-vicuna")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(random.Random(args.seed), size=512)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}", flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05)
    warm_up = 150
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm_up, 1 - 0.97 * max(0, s - warm_up) / (args.steps - warm_up))
    )
    packer = Packer(tokenizer, random.Random(args.seed + 1), length=256)
    start = time.time()
    for step in range(1, args.steps + 1):
        ids, labels, positions = (torch.tensor(part) for part in zip(*(packer.row() for _ in range(32)), strict=True))
        loss = model(input_ids=ids, labels=labels, position_ids=positions, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            rate = step * ids.numel() / (time.time() - start)
            print(
                f"step {step}/{args.steps}  loss {loss:.4f}  {rate:,.0f} tok/s  {time.time() - start:.0f} s", flush=True
            )

    questions = evaluation(random.Random(args.seed + 2))
    model = model.half().float().eval()  # what the fp16 file will hold
    print(f"accuracy on {len(questions)} held-out questions: {accuracy(model, tokenizer, questions):.1%}", flush=True)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    with open(args.out / "eval.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": q, "answer": a}) + "\n" for q, a in questions)


if __name__ == "__main__":
    main()
