"""An untrained `wallaroo-tiny` with a cheap VQ tokenizer: it answers nonsense and draws noise, in the right sizes."""

from pathlib import Path

from transformers_wallaroo import WallarooVQConfig
from transformers_wallaroo.training.tiny import build_tiny


def save_untrained(folder: Path) -> Path:
    """Writes the checkpoint to the folder and returns it."""
    vq_config = WallarooVQConfig(
        embed_dim=8,
        num_embeddings=256,
        latent_channels=64,
        base_channels=32,
        channel_multiplier=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        num_patches=32,
    )
    model, processor = build_tiny(vq_config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
