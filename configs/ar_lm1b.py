"""Autoregressive language model on LM1B, as published: Llama 2's shape by blocks.

    python -m experiments.prepare_text --tfds=lm1b --tokenizer=tokenizer.json --out=lm1b
    python -m experiments.train --config=configs/ar_lm1b.py --config.data.data_dir=lm1b \\
        --workdir=runs/lm1b_blocks
    python -m experiments.train --config=configs/ar_lm1b.py:end_to_end \\
        --config.data.data_dir=lm1b --workdir=runs/lm1b_twin
    python -m experiments.evaluate --workdir runs/lm1b_blocks runs/lm1b_twin

Published (DiffusionBlocks, arXiv 2506.14202), end to end and by 4 blocks: MAUVE 0.50 and 0.71,
generative perplexity by Llama-2-7B 14.58 and 12.32, by GPT2-XL 38.87 and 30.99. The blocks write
greedily, the twin with top-p 0.95, so the perplexities do not compare (see the guide on text).
12 layers of width 768 with Llama 2's tokenizer of 32,000, which you bring as tokenizer.json;
length 256, batch 256, AdamW 3e-4 with 2,500 steps of warm-up, 10 epochs, overlap 0.1, 4 steps for
each token. An epoch is taken for 0.9 billion tokens, packed: 30.3 M sentences of some 30. What the
paper does not say is our choice: noise as for images, the cosine decay, weight decay 0.1, clipping,
no average, and how logits become embeddings.

Not measured here. Counted: 1.5e19 operations for all blocks together, 6.2e18 for the twin: 14 hours
and 6 on an accelerator that reaches 300 TFLOP/s.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config

TOKENS = 900_000_000


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config({"blocks": "ar_lm", "end_to_end": "plain_ar"}[variant])
    config.model.dtype = "bfloat16"
    if variant == "blocks":
        config.partition.update(num_blocks=4, overlap=0.1)
        config.sampling.update(num_steps=4, temperature=0.0)
    else:
        config.partition.num_blocks = 1
        config.sampling.update(num_steps=1, temperature=1.0, top_p=0.95)
    config.optimizer.update(
        learning_rate=3e-4, warmup_steps=2500, schedule="cosine", weight_decay=0.1, ema_decay=0.0
    )
    config.training.update(steps=10 * (TOKENS // 256 // 256), save_every=5000)
    config.placement.update(name="sequential", steps_per_dispatch=10)
    config.sampling.batch_size = 64
    config.data.update(name="tokens", data_dir="lm1b", length=256, batch_size=256)
    return config
