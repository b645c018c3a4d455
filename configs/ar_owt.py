"""Autoregressive language model on OpenWebText, as published: Llama 2's shape by blocks.

    python -m experiments.prepare_text openwebtext/*.txt --documents=file --test=0.1 \\
        --tokenizer=tokenizer.json --out=owt
    python -m experiments.train --config=configs/ar_owt.py --config.data.data_dir=owt \\
        --workdir=runs/owt_blocks
    python -m experiments.train --config=configs/ar_owt.py:end_to_end \\
        --config.data.data_dir=owt --workdir=runs/owt_twin
    python -m experiments.evaluate --workdir runs/owt_blocks runs/owt_twin

Published (DiffusionBlocks, arXiv 2506.14202), end to end and by 4 blocks: MAUVE 0.85 and 0.82,
generative perplexity by Llama-2-7B 15.05 and 14.99, by GPT2-XL 25.24 and 26.33. As
configs/ar_lm1b.py, at length 1024; a tenth of the documents is the test split. An epoch is taken
for 9 billion tokens, packed.

Not measured here. Counted: 1.7e20 operations for all blocks together, 6.9e19 for the twin: a week
and three days on an accelerator that reaches 300 TFLOP/s.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config

TOKENS = 9_000_000_000


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
    config.training.update(steps=10 * (TOKENS // 1024 // 256), save_every=5000)
    config.placement.update(name="sequential", steps_per_dispatch=10)
    config.sampling.batch_size = 16
    config.data.update(name="tokens", data_dir="owt", length=1024, batch_size=256)
    return config
