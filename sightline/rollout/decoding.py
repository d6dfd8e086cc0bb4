"""Keys and values while answers grow: the prompt's once per group, each answer's own beside them.

Shapes: P prompts, B live answers, H query heads, K key-value heads, R = H / K, D head size, T longest prompt,
S tokens of the answers so far, W slots a prompt: the largest number of live answers of one prompt.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from sightline.models.attention import PackedLayout

FIRST_CAPACITY = 64  # tokens; doubles when full


class PrefillPlan:
    """Attends as the packed layout says and keeps every layer's keys and values."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout
        self.keys: list[Tensor] = []  # per layer (1, K, row tokens, D)
        self.values: list[Tensor] = []

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `AttentionPlan.attend`."""
        assert layer_index == len(self.keys), "layers are visited in order"
        self.keys.append(key)
        self.values.append(value)
        return self._layout.attend(layer_index, query, key, value, scaling)

    def split(self, lengths: Sequence[int]) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Per prompt of the row: keys and values of every layer, each (K, prompt tokens, D)."""
        keys = [layer[0].split(list(lengths), dim=1) for layer in self.keys]
        values = [layer[0].split(list(lengths), dim=1) for layer in self.values]
        return [
            ([layer[number] for layer in keys], [layer[number] for layer in values]) for number in range(len(lengths))
        ]


class DecodePlan:
    """One new token per live answer: attends to the group's shared prompt and to the answer's own past."""

    def __init__(
        self,
        prompts: Sequence[tuple[list[Tensor], list[Tensor]]],
        prompt_of_answer_B: Tensor,
        *,
        max_tokens: int,
    ) -> None:
        lengths = [keys[0].shape[1] for keys, _ in prompts]
        self._prompt_keys = _pad_layers([keys for keys, _ in prompts], max(lengths))
        self._prompt_values = _pad_layers([values for _, values in prompts], max(lengths))
        device = self._prompt_keys[0].device
        is_beyond_PT = torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]
        self._is_beyond_PT = is_beyond_PT.to(device) if bool(is_beyond_PT.any()) else None
        self._max_tokens = max_tokens
        self._num_tokens = 0  # S of the step that runs
        self._own_keys: list[Tensor] = []  # per layer (B, K, capacity, D)
        self._own_values: list[Tensor] = []
        self._assign_slots(prompt_of_answer_B)

    def _assign_slots(self, prompt_of_answer_B: Tensor) -> None:
        """Give each live answer one of W slots of its prompt, so that a prompt's queries form one matrix."""
        counts: dict[int, int] = {}
        ranks: list[int] = []
        for prompt in prompt_of_answer_B.tolist():
            ranks.append(counts.get(prompt, 0))
            counts[prompt] = ranks[-1] + 1
        self._prompt_of_answer_B = prompt_of_answer_B
        self._num_slots = max(counts.values())
        slots = prompt_of_answer_B * self._num_slots + torch.tensor(ranks)
        num_prompts = self._prompt_keys[0].shape[0]
        is_full = bool((slots == torch.arange(num_prompts * self._num_slots)[: len(slots)]).all())
        is_full = is_full and len(slots) == num_prompts * self._num_slots
        self._slot_B = None if is_full else slots.to(self._prompt_keys[0].device)

    def begin_token(self) -> None:
        """Announce the next token of every live answer."""
        self._num_tokens += 1

    def keep(self, rows: Tensor) -> None:
        """Let the answers whose numbers are not in `rows` (rising) leave, with their memory."""
        self._own_keys = [layer[rows] for layer in self._own_keys]
        self._own_values = [layer[rows] for layer in self._own_values]
        prompt_of_answer_B = self._prompt_of_answer_B[rows.cpu()]
        live_prompts, renumbered = prompt_of_answer_B.unique(return_inverse=True)
        if len(live_prompts) < self._prompt_keys[0].shape[0]:
            live_prompts = live_prompts.to(self._prompt_keys[0].device)
            self._prompt_keys = [layer[live_prompts] for layer in self._prompt_keys]
            self._prompt_values = [layer[live_prompts] for layer in self._prompt_values]
            if self._is_beyond_PT is not None:
                self._is_beyond_PT = self._is_beyond_PT[live_prompts]
        self._assign_slots(renumbered)

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `AttentionPlan.attend`; one query token per answer."""
        own_keys, own_values = self._append(layer_index, key, value)
        answers, heads, _, size = query.shape
        kv_heads = key.shape[1]
        query_BKRD = (query * scaling).reshape(answers, kv_heads, heads // kv_heads, size)
        prompt_keys = self._prompt_keys[layer_index]
        scores_PKQT = self._by_prompt(query_BKRD) @ prompt_keys.transpose(2, 3)
        if self._is_beyond_PT is not None:
            scores_PKQT = scores_PKQT.masked_fill(self._is_beyond_PT[:, None, None], float("-inf"))
        scores_BKRT = self._by_answer(scores_PKQT, heads // kv_heads)
        scores_BKRS = query_BKRD @ own_keys.transpose(2, 3)
        weights = torch.softmax(torch.cat([scores_BKRT, scores_BKRS], dim=3).float(), dim=3).to(query.dtype)
        weights_BKRT, weights_BKRS = weights.split([prompt_keys.shape[2], self._num_tokens], dim=3)
        from_prompt = self._by_prompt(weights_BKRT) @ self._prompt_values[layer_index]
        attended_BKRD = self._by_answer(from_prompt, heads // kv_heads) + weights_BKRS @ own_values
        return attended_BKRD.reshape(answers, 1, heads, size)

    def _append(self, layer_index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer_index == len(self._own_keys):
            capacity = min(FIRST_CAPACITY, self._max_tokens)
            self._own_keys.append(key.new_empty(*key.shape[:2], capacity, key.shape[3]))
            self._own_values.append(torch.empty_like(self._own_keys[-1]))
        capacity = self._own_keys[layer_index].shape[2]
        if self._num_tokens > capacity:
            added = min(capacity, self._max_tokens - capacity)
            self._own_keys[layer_index] = pad(self._own_keys[layer_index], (0, 0, 0, added))
            self._own_values[layer_index] = pad(self._own_values[layer_index], (0, 0, 0, added))
        keys, values = self._own_keys[layer_index], self._own_values[layer_index]
        keys[:, :, self._num_tokens - 1] = key[:, :, 0]
        values[:, :, self._num_tokens - 1] = value[:, :, 0]
        return keys[:, :, : self._num_tokens], values[:, :, : self._num_tokens]

    def _by_prompt(self, rows_BKRX: Tensor) -> Tensor:
        """(B, K, R, X) -> (P, K, W*R, X); empty slots hold zeros."""
        num_prompts = self._prompt_keys[0].shape[0]
        if self._slot_B is not None:
            slots = rows_BKRX.new_zeros(num_prompts * self._num_slots, *rows_BKRX.shape[1:])
            rows_BKRX = slots.index_copy(0, self._slot_B, rows_BKRX)
        _, kv_heads, repeats, size = rows_BKRX.shape
        grouped = rows_BKRX.view(num_prompts, self._num_slots, kv_heads, repeats, size).transpose(1, 2)
        return grouped.reshape(num_prompts, kv_heads, self._num_slots * repeats, size)

    def _by_answer(self, grouped_PKQX: Tensor, repeats: int) -> Tensor:
        """(P, K, W*R, X) -> (B, K, R, X)."""
        num_prompts, kv_heads, _, size = grouped_PKQX.shape
        slots = grouped_PKQX.view(num_prompts, kv_heads, self._num_slots, repeats, size).transpose(1, 2)
        slots = slots.reshape(num_prompts * self._num_slots, kv_heads, repeats, size)
        return slots if self._slot_B is None else slots[self._slot_B]


def _pad_layers(prompts: Sequence[Sequence[Tensor]], length: int) -> list[Tensor]:
    """Per prompt and layer (K, tokens, D) -> per layer (P, K, T, D)."""
    return [
        torch.stack([pad(layers[number], (0, 0, 0, length - layers[number].shape[1])) for layers in prompts])
        for number in range(len(prompts[0]))
    ]
