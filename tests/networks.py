"""Small random networks that are no decoders of a family, as transformers saves them, and graphs
made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase, punctuation

from mpsplit.plan.stages.counted_graph import CountedGraph, Node

WORDS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
WIDER = WORDS | dict(hidden_size=48, num_attention_heads=4, intermediate_size=192)
NETWORKS: dict[str, tuple[str, dict]] = {
    "vit": ("ViTForImageClassification", WIDER | dict(image_size=32, patch_size=8, num_labels=3)),
    "bert": ("BertModel", WORDS | dict(vocab_size=50, max_position_embeddings=96)),
    "resnet": (
        "ResNetForImageClassification",
        dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3, layer_type="basic"),
    ),
    "gpt2": ("GPT2LMHeadModel", dict(n_embd=32, n_layer=2, n_head=2, n_positions=96, vocab_size=50)),
    "roberta": ("RobertaForSequenceClassification", WORDS | dict(vocab_size=50, max_position_embeddings=98)),
    "t5": ("T5EncoderModel", dict(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=50)),
    "clip": (
        "CLIPTextModelWithProjection",
        WORDS | dict(vocab_size=50, max_position_embeddings=96, projection_dim=16),
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        dict(d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
        | dict(encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=20, max_source_positions=50, vocab_size=50),
    ),
}
IDS = {
    "clip": dict(bos_token_id=1, eos_token_id=7, pad_token_id=0),
    "gpt2": dict(bos_token_id=1, eos_token_id=2),
    "whisper": dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1),
}
PREPROCESSOR = (
    '{"do_resize": true, "size": {"height": 32, "width": 32}, "resample": 2, "do_rescale": true,'
    ' "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],'
    ' "image_std": [0.5, 0.5, 0.5]}'
)


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = [*SPECIAL, *punctuation, *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
# networks with a tokenizer: texts become letters
READERS: dict[str, tuple[str, dict]] = {
    "encoder": ("BertModel", WORDS | dict(vocab_size=len(LETTERS), max_position_embeddings=96)),
    "scorer": (
        "BertForSequenceClassification",
        WORDS | dict(vocab_size=len(LETTERS), max_position_embeddings=96, num_labels=1),
    ),
}
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def make_reader(name: str, folder: Path, longest: int = 48) -> Path:
    """An encoder whose states are pooled as sentence-transformers describes it, for texts of up to
    `longest` tokens, or a cross-encoder."""
    make_network(name, folder)
    write_tokenizer(folder)
    if name == "encoder":
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        (folder / "modules.json").write_text(json.dumps(MODULES))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return folder


def write_tokenizer(folder: Path) -> None:
    """BERT's, with letters for words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {token: i for i, token in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=1000))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def make_network(name: str, folder: Path) -> Path:
    """Its norms and biases random too, so that nothing is lost unseen."""
    import torch
    import transformers

    torch.manual_seed(0)
    architecture, sizes = (NETWORKS | READERS)[name]
    made = getattr(transformers, architecture)
    model = made(made.config_class(**sizes, **IDS.get(name, {}))).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and path.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape) * (0.2 if parameter.dim() == 1 else 0.1) + is_norm)
        for path, buffer in model.named_buffers():
            if path.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
    model.save_pretrained(folder)
    if name == "vit":
        (folder / "preprocessor_config.json").write_text(PREPROCESSOR)
    return folder


def node(name: str, reads: str = "", flops: int = 0, size: int = 4, module: str = "m", **more) -> Node:
    """`reads`: names with blanks between."""
    given = dict(weights=(), moved=0) | more
    return Node(name=name, module=module, reads=tuple(reads.split()), flops=flops, bytes=size, **given)


def graph_of(*nodes: Node, inputs: dict[str, int] | None = None, **more) -> CountedGraph:
    """Whose output is that of its last node."""
    given = dict(outputs=(nodes[-1].name,), weights={}) | more
    return CountedGraph(inputs={"x": 4} if inputs is None else inputs, nodes=nodes, **given)
