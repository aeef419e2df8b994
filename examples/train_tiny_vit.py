#!/usr/bin/env python3
"""Makes examples/tiny-vit: a ViT of 12 layers and 0.4 million parameters that really reads digits.

In: a seed, the 1,797 images of 8 x 8 that scikit-learn ships. Out: config.json, model.safetensors
(fp16) and preprocessor_config.json. The invariant: no held-out image, every fifth, is trained on.

    python examples/train_tiny_vit.py [--out examples/tiny-vit] [--threads 2]
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

EDGE, WHITE = 8, 16  # pixels, and the largest of their values
HELD_OUT = 5  # every such image


def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [images, EDGE, EDGE], as a camera would give them, and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / WHITE)).astype(np.uint8), found.target


def held_out(count: int) -> np.ndarray:
    return np.arange(count) % HELD_OUT == 0


def as_input(images):
    """As preprocessor_config.json says it."""
    return (images.float() / 255 - 0.5)[:, None] / 0.5


def moved(images, chance):
    """Half of them a pixel to some side."""
    import torch

    wide = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2, len(images)), generator=chance)
    stay = torch.rand(len(images), generator=chance) < 0.5
    down[stay] = right[stay] = 1
    rows = (down[:, None] + torch.arange(EDGE))[:, :, None]
    columns = (right[:, None] + torch.arange(EDGE))[:, None, :]
    return wide[torch.arange(len(images))[:, None, None], 0, rows, columns][:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-vit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()

    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config = ViTConfig(
        image_size=EDGE,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=10,
        id2label={i: str(i) for i in range(10)},
        label2id={str(i): i for i in range(10)},
        hidden_dropout_prob=0.0,
        initializer_range=0.08,  # or so many narrow layers begin slowly
    )
    model = ViTForImageClassification(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    images, shown = (torch.from_numpy(array) for array in digits())
    images, out = as_input(images), torch.from_numpy(held_out(len(shown)))
    seen, labels = images[~out], shown[~out]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, args.steps, pct_start=0.15)
    chance, start = torch.Generator().manual_seed(args.seed), time.time()
    model.train()
    for step in range(1, args.steps + 1):
        chosen = torch.randint(0, len(seen), (64,), generator=chance)
        loss = model(pixel_values=moved(seen[chosen], chance), labels=labels[chosen]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}/{args.steps}  loss {loss:.4f}  {time.time() - start:.0f} s", flush=True)

    model = model.half().float().eval()  # what the fp16 file will hold
    with torch.no_grad():
        right = (model(pixel_values=images[out]).logits.argmax(-1) == shown[out]).float().mean()
    print(f"accuracy on {int(out.sum())} held-out digits: {right:.1%}", flush=True)
    model.half().save_pretrained(args.out)
    said = {
        "do_resize": True, "size": {"height": EDGE, "width": EDGE}, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5], "image_std": [0.5],
    }  # fmt: skip
    (args.out / "preprocessor_config.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
