"""Every length, place and name of a GGUF file may lie, and what is wrong is told."""

import random
import struct
import time

import pytest

from mpsplit.errors import ModelError
from mpsplit.export.model.gguf import gguf_folder
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_config import config_of, tensor_names
from mpsplit.export.model.gguf.gguf_header import header_bytes, read_gguf
from mpsplit.export.model.gguf.gguf_tokenizer import NoTokenizer, tokenizer_of
from tests.ggufs import write_gguf
from tests.models import make_model

WORDS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a", "b", "ab"],
         "tokenizer.ggml.token_type": [1, 1, 1], "tokenizer.ggml.merges": ["a b"],
         "tokenizer.ggml.bos_token_id": 0}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(make_model("llama", folder / "model"), folder / "small.gguf", "Q8_0", WORDS)


def refused(path, data, why):
    path.write_bytes(data)
    with pytest.raises(ModelError, match=why) as told:
        config_of(GgufCheckpoint(path).gguf)
    assert "\n" not in str(told.value)


def replaced(data, old, new):
    assert data.count(old) == 1 and len(old) == len(new)
    return data.replace(old, new)


def described(name, shape):
    """How the file tells of a tensor, up to its type."""
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))


def test_each_lie_is_told(tmp_path, whole):
    data, path = whole.read_bytes(), tmp_path / "small.gguf"
    norm, up = described(b"output_norm.weight", (64,)), described(b"blk.1.ffn_up.weight", (96, 64))
    at = data.index(up) + len(up)
    for wrong, why in (
        (b"", "cannot be read"),
        (data[:3], "bytes should follow"),
        (b"GGML" + data[4:], "does not begin with GGUF"),
        (data[:4] + struct.pack(">I", 3) + data[8:], "other byte order"),
        (data[:4] + struct.pack("<I", 1) + data[8:], "version 1 of GGUF; known are 2 and 3"),
        (data[:8] + struct.pack("<Q", 1 << 60) + data[16:], "too few for 1,152,921,504,606,846,976 tensors"),
        (data[:16] + struct.pack("<Q", 1 << 60) + data[24:], "too few for .* settings"),
        (data[:24] + struct.pack("<Q", 1 << 62) + data[32:], "bytes should follow at 32"),
        (data[:-1000], "cut short or is damaged"),
        (data[: at + 2], "bytes should follow|cut short"),
        (data[:at] + struct.pack("<I", 99) + data[at + 4 :], "has type 99, which is unknown here; known are F32"),
        (data[: at + 4] + struct.pack("<Q", 33) + data[at + 12 :], "cut short or is damaged"),
        (data[: at + 4] + struct.pack("<Q", 1 << 63) + data[at + 12 :], "cut short or is damaged"),
        (data[: at + 4] + struct.pack("<Q", 0) + data[at + 12 :], "lie over each other"),
        (replaced(data, norm, described(b"output_norm.weight", (0,))), "no whole number of blocks"),
        (replaced(data, up, described(b"blk.1.ffn_up.weight", (96, 63))), "no whole number of blocks of 32"),
        (replaced(data, up, described(b"blk.1.ffn_up.weight", (1 << 63, 64))), "cut short or is damaged"),
        (replaced(data, up, described(b"blk.1.ffn_xx.weight", (96, 64))), "which its kind of model has not"),
        (replaced(data, up, described(b"blk.2.ffn_up.weight", (96, 64))), "two tensors have one name"),
        (data.replace(b"general.architecture", b"general.architectur\xff", 1), "no UTF-8"),
        (data.replace(b"llama.block_count", b"llama.embedding_length"[:17], 1), "says nothing of llama.block_count"),
    ):
        refused(path, wrong, why)


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"llama.expert_count": 8}, "asks for llama.expert_count, which is not supported"),
        ({"llama.rope.dimension_count": 4}, "turns 4 of 8 numbers of a head"),
        (
            {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0},
            "scales its rotary embedding by 'longrope'",
        ),
        ({"llama.attention.head_count": [8, 8, 8]}, r"has llama.attention.head_count = \[8, 8, 8\], which is no int"),
        ({"llama.attention.head_count": 0}, "has no attention heads"),
        ({"general.alignment": 48}, "an alignment of 48 bytes"),
        ({"split.count": 3}, "is one of 3 files by what it says"),
        ({"split.tensors.count": 3}, "names 3 tensors, and 30 are there"),
    ],
)
def test_settings_that_would_change_answers_are_refused(tmp_path, settings, why):
    path = write_gguf(make_model("llama", tmp_path / "model"), tmp_path / "small.gguf", "F32", settings)
    with pytest.raises(ModelError, match=why):
        config_of(read_gguf(path))


def test_files_of_several_are_all_there_and_no_others(tmp_path):
    model = make_model("llama", tmp_path / "model")
    first = write_gguf(model, tmp_path / "cut.gguf", "F32", parts=2)
    second = first.with_name("cut-00002-of-00002.gguf")
    data = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(ModelError, match="says that it is number 1; it was given another's name"):
        read_gguf(first)
    second.unlink()
    with pytest.raises(ModelError, match="is one of 2 files, and there is no .*cut-00002-of-00002.gguf"):
        read_gguf(first)
    second.write_bytes(data)
    alone = first.rename(tmp_path / "alone.gguf")
    with pytest.raises(ModelError, match="is one of 2 files by what it says"):
        read_gguf(alone)


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"llama.block_count": 4}, "names 4 layers, and has weights of 3"),
        ({"llama.block_count": 0}, "names 0 layers, and has weights of 3"),
        (
            {"llama.feed_forward_length": 1 << 31},
            r"has .*gate_proj.weight of shape .*and its settings ask for \[2147483",
        ),
        ({"llama.embedding_length": 32}, r"of shape \[64, 64\], and its settings ask for \[64, 32\]"),
        ({"llama.attention.head_count_kv": 16}, "has 8 heads for 16 of keys and values"),
        ({"llama.feed_forward_length": 0}, "intermediate_size = 0, which must be 1 or more"),
    ],
)
def test_settings_that_the_weights_belie_are_refused(tmp_path, settings, why):
    path = write_gguf(make_model("llama", tmp_path / "model"), tmp_path / "small.gguf", "F32", settings)
    with pytest.raises(ModelError, match=why):
        gguf_folder._write(path, tmp_path / "unpacked")


def test_marks_that_cannot_stand_around_a_text_give_no_tokenizer(tmp_path):
    words = WORDS | {"tokenizer.ggml.tokens": ["a b", "c", "d"], "tokenizer.ggml.merges": [],
                     "tokenizer.ggml.add_bos_token": True}  # fmt: skip
    path = write_gguf(make_model("llama", tmp_path / "model"), tmp_path / "small.gguf", "F32", words)
    with pytest.raises(NoTokenizer, match="its marks .*'a b'.* cannot stand around a text"):
        tokenizer_of(read_gguf(path))


@pytest.mark.seconds(600)
def test_no_mutation_does_more_than_to_be_refused(tmp_path, whole, request):
    """Each ends in an error that a person can read, or reads as some model; none takes long."""
    data, path, numbers = whole.read_bytes(), tmp_path / "small.gguf", random.Random(7)
    header = header_bytes(whole)
    refusals, longest = 0, 0.0
    for _ in range(10_000 if request.config.getoption("--thorough") else 1_500):
        changed = bytearray(data[:header])
        for _ in range(numbers.choice((1, 1, 2, 8))):
            at = numbers.randrange(len(changed))
            what = numbers.randrange(4)
            if what == 0:
                changed[at] ^= 1 << numbers.randrange(8)
            elif what == 1:
                changed[at : at + 8] = numbers.choice((b"\0" * 8, b"\xff" * 8, struct.pack("<Q", len(data))))
            elif what == 2:
                del changed[at : at + numbers.randrange(1, 40)]
            else:
                changed[at:at] = changed[: numbers.randrange(40)]
        path.write_bytes(bytes(changed) + data[header : numbers.choice((None, None, header, -1))])
        began = time.process_time()
        try:
            checkpoint = GgufCheckpoint(path)
            config_of(checkpoint.gguf)
            for name in tensor_names(checkpoint.gguf).values():
                checkpoint.floats(name)
            tokenizer_of(checkpoint.gguf).encode("ab")
        except (ModelError, NoTokenizer):
            refusals += 1
        longest = max(longest, time.process_time() - began)
    assert refusals > 500 and longest < 1
