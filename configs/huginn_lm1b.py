"""Language model of recurrent depth on LM1B, as published, and Huginn as its twin.

    python -m experiments.train_tokenizer --files lm1b.txt.gz --vocabulary=32000 \\
        --out=tokenizer.json
    python -m experiments.prepare_text --tfds=lm1b --tokenizer=tokenizer.json --out=lm1b
    python -m experiments.train --config=configs/huginn_lm1b.py --config.data.data_dir=lm1b \\
        --workdir=runs/lm1b_blocks
    python -m experiments.train --config=configs/huginn_lm1b.py:end_to_end \\
        --config.data.data_dir=lm1b --workdir=runs/lm1b_twin
    python -m experiments.evaluate --workdir runs/lm1b_blocks runs/lm1b_twin --num_samples=1000

Published (DiffusionBlocks, arXiv 2506.14202), this model / Huginn: MAUVE 0.70 / 0.49, perplexity by
Llama-2 16.08 / 17.04, by GPT2-XL 42.43 / 46.73, after 15 and 5 epochs. 2 layers of prelude, 4 of
core, 2 of coda, width 512, 8 heads; the twin repeats the core 32 times on average and is trained
through the last 8.

The paper leaves open which layers these are, where the noise level enters, the tokenizer, the
length, the steps of a walk, and what the slots before hold while a token is sought. Here they are
Huginn's layers with MLPs of 2048, modulated in core and coda; 32,000 tokens, of this data; 256, as
in its other language model on LM1B; 32 steps, the twin's iterations; noisy embeddings of the level
at hand, as in training (`dbjax.writers`). AdamW 3e-4 with 2,500 steps of warm-up, batch 256 and
the noise are the paper's; constant learning rate, clipping, average and no weight decay are those
of BD3-LM.

An epoch is taken to be 0.9 G tokens, 30.3 M sentences of some 30 tokens: 13,732 steps. Not measured
here. Counted, the head of 32,000 rows included: 2.1e13 operations a step, the twin 1.3e14 at its
mean of 33 iterations, 6.4 times as many; 4.3e18 and 9.0e18 in all. That is 4 and 8 hours on an
accelerator that reaches 300 TFLOP/s; matrices as small as these will hardly let it.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config

EPOCH = 900_000_000 // 256 // 256
EPOCHS = {"blocks": 15, "end_to_end": 5}


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config({"blocks": "recurrent_lm", "end_to_end": "huginn"}[variant])
    config.model.dtype = "bfloat16"
    config.partition.update(num_blocks=1, overlap=0.0)
    config.optimizer.update(
        learning_rate=3e-4,
        warmup_steps=2500,
        schedule="constant",
        clip_norm=1.0,
        ema_decay=0.9999,
    )
    config.training.update(steps=EPOCHS[variant] * EPOCH, save_every=5000)
    config.placement.update(name="sequential", steps_per_dispatch=10)
    config.sampling.update(num_steps={"blocks": 32, "end_to_end": 1}[variant], batch_size=64)
    if variant == "end_to_end":
        config.sampling.update(temperature=1.0, top_p=0.95)
    config.data.update(name="tokens", length=256, batch_size=256)
    return config
