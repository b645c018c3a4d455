"""DiT-L/2 on ImageNet 256 x 256 in VAE latents, as published (paper, section 5.2, appendix E.2).

    python -m experiments.encode_latents /data/imagenet --autoencoder=stabilityai/sd-vae-ft-ema \\
        --out=/data/imagenet256_latents
    python -m experiments.train --config=configs/dit_imagenet256.py --workdir=runs/imagenet \\
        --config.data.data_dir=/data/imagenet256_latents

Needs latents of SD-VAE-ft-ema. Published: 24 layers, B = 3,
batch 512, 100 epochs for each block, AdamW 5e-5, label dropout 0.1, 50 Euler steps, guidance 2.0.
FID train / test: blocks 9.00 / 10.63, end to end 9.01 / 12.09. Unstated settings as in
`dit_cifar10.py`, but no flips: latents of mirrored images have to be encoded.

Measured by this code: not yet; the run asks for a machine of several accelerators for days.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config

EPOCH = 1_281_167 // 512


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config("dit")
    config.model.update(size="L", patch_size=2, dtype="bfloat16")
    config.partition.num_blocks = {"blocks": 3, "end_to_end": 1}[variant]
    config.optimizer.update(learning_rate=5e-5, ema_decay=0.9999)
    config.training.update(steps=100 * EPOCH, save_every=EPOCH, log_every=100)
    config.placement.update(steps_per_visit=500, steps_per_dispatch=20)
    config.sampling.update(num_steps=50, guidance=2.0, batch_size=128)
    config.data.update(name="imagenet256_latents", batch_size=512)
    return config
