"""The tokens that code puts in and text never becomes (recipe, section 2.3)."""

END_OF_TEXT = "<|endoftext|>"
"""Ends every document of the pretraining data."""
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where text is cut into pieces before merging; every digit is alone (recipe, section 2.2)."""

QWEN_NUM_EXTRA = 205
"""Qwen v1 reserves `<|extra_0|>` to `<|extra_204|>`."""


def special_tokens(first_id: int, num_extra: int = QWEN_NUM_EXTRA) -> dict[str, int]:
    """The three control tokens and the spare ones, numbered from `first_id` (the number of ranks)."""
    names = [END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{index}|>" for index in range(num_extra))]
    return {name: first_id + index for index, name in enumerate(names)}
