"""Caption embeddings: from a text encoder where there is one, zeros otherwise."""

from collections.abc import Sequence
from typing import Any

import torch

from egoloom.errors import UserError


@torch.no_grad()
def embed_texts(tokenizer: Any, text_encoder: Any, captions: Sequence[str], length: int, text_dim: int) -> torch.Tensor:
    """Returns caption embeddings ``[B, length, text_dim]``; positions after the text are zero, as Wan expects.

    Args:
        tokenizer: Tokenizer of the text encoder, or None.
        text_encoder: A T5-like encoder, or None: then every caption must be empty and the result is zero.
        captions: Texts.
        length: Text tokens.
        text_dim: Channels that the transformer expects.

    Raises:
        UserError: If there is a caption but no encoder for it.
    """
    if text_encoder is None:
        if any(captions):
            raise UserError(
                "This pipeline has no text encoder but got a caption", fix="leave captions empty, or pass prompt_embeds"
            )
        return torch.zeros(len(captions), length, text_dim)
    tokens = tokenizer(
        list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).to(text_encoder.device)
    hidden = text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return hidden * tokens.attention_mask[..., None].to(hidden)
