"""Speculative decoding: a cheap guess of several tokens, checked by the model in one step."""

from __future__ import annotations

from typing import Any, Final

VLLM_COUNTERS: Final = {
    "drafts": "vllm:spec_decode_num_drafts",
    "guessed": "vllm:spec_decode_num_draft_tokens",
    "accepted": "vllm:spec_decode_num_accepted_tokens",
}
"""Ours -> vLLM's names of its counters; at /metrics they end in `_total`."""


def speculation(*, drafts: int, guessed: int, accepted: int) -> dict[str, Any]:
    """Figures of an engine's counters. `drafts`: steps that checked a guess, of all requests.

    `acceptance_rate`: guessed tokens that the model would have made itself; `tokens_per_step`:
    those, and the one that the model makes in any step. None of no guess.
    """
    return {
        "drafts": drafts,
        "guessed_tokens": guessed,
        "accepted_tokens": accepted,
        "acceptance_rate": accepted / guessed if guessed else None,
        "tokens_per_step": 1 + accepted / drafts if drafts else None,
    }
