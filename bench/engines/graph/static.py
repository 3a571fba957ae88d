"""Decoding in memory that never moves: layers compiled, and on a GPU each step one CUDA graph.

In eager mode a fast GPU waits for Python: a step of an 8B model is some thousand launches, more
time than reading the weights takes. Here the key-value cache is made once a workload at its full
length, the decoder layer is compiled once (all layers share its code), and with `cuda-graph` the
whole step, argmax included, is captured once and replayed, so that Python launches one thing.

On a GPU the cache is read as far as it is filled, by a kernel of this project; elsewhere in full,
under a mask (`bench.engines.graph.attention`; `attention` and `cache_length` of the notes).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from bench.engines.graph.compiling import (
    NOTHING,
    compiling,
    leave_out_slow_products,
    merging_of,
)
from bench.engines.graph.forms import check_window, layers_of, refuse_form
from bench.engines.graph.graphs import Graphs
from bench.engines.graph.narrow import NarrowSlots, in_two_passes, rounding_cache
from bench.engines.graph.slots import SlotMemory, Slots, cache_length
from bench.engines.graph.written import largest_matrix, listening, of_step
from bench.engines.transformers import self_check
from bench.engines.transformers.eager import Eager
from bench.engines.transformers.loading import refusing
from bench.engines.transformers.self_check import Full, Judged
from bench.errors import UnsupportedError
from bench.quantization.streaming import give_back
from bench.schemes import cache

CHECKED: Final = 16
"""Tokens whose agreement with eager mode is looked at when a workload starts."""

PIECE: Final = 1024
"""Logits among which one program finds the largest."""

WARM: Final = 3
"""Calls before capture: they compile, and let libraries make their workspaces."""


def run_layer(layer: Any, slots: Slots, *args: Any, **options: Any) -> Any:
    """One decoder layer with its own part of the cache; this is what is compiled."""
    return type(layer).forward(layer, *args, past_key_values=slots, **options)


def hidden_of(_layer: Any, _slots: Any, *args: Any, **options: Any) -> Any:
    """Of the arguments of `run_layer`: what the layer before made [batch, length, width]."""
    return args[0] if args else options["hidden_states"]


def choose(norm: Any, head: Any, hidden: Any, position: Any, token: Any, out: Any) -> None:
    """Keep the likeliest token after `hidden` [batch, 1, width] as the one at `position`.

    What some models do to their logits after this (scaling, capping) leaves the likeliest as it is.
    """
    token.copy_(likeliest(head(norm(hidden))[:, -1]))
    out.index_copy_(1, position, token)


def likeliest(logits: Any) -> Any:
    """The place of the largest of `logits` [batch, vocabulary], [batch, 1]: the first of equals.

    In two stages, as a card gives the one reduction of a row to a single program: some 125 programs
    find the largest of their piece, then one that of all pieces.
    """
    import torch

    pieces = -(-logits.shape[-1] // PIECE)
    padded = torch.nn.functional.pad(
        logits, (0, pieces * PIECE - logits.shape[-1]), value=float("-inf")
    )
    top, place = padded.view(-1, pieces, PIECE).max(-1)
    best = top.argmax(-1, keepdim=True)
    return best * PIECE + place.gather(-1, best)


def share_compiled_layer(model: Any, compiled: Callable[..., Any]) -> None:
    """Let every decoder layer run `compiled` when it is called with a `Memory`.

    The number of the layer is a constant to the compiler, which would compile each layer anew; so
    a layer is handed its own slots, which need no number, and the number is out of sight meanwhile.
    """

    def patched(layer: Any, index: int) -> Callable[..., Any]:
        plain, attends = layer.forward, layer.self_attn

        def forward(*args: Any, past_key_values: Any = None, **options: Any) -> Any:
            if not isinstance(past_key_values, SlotMemory) or not past_key_values.made:
                return plain(*args, past_key_values=past_key_values, **options)
            attends.layer_idx = 0
            try:
                return compiled(layer, past_key_values.layers[index], *args, **options)
            finally:
                attends.layer_idx = index

        return forward

    for index, layer in enumerate(layers_of(model)):
        layer.forward = patched(layer, index)


class Static:
    """A `Decoder` with a static cache and compiled layers; with `graph`, captured steps."""

    def __init__(
        self,
        model: Any,
        options: Mapping[str, Any],
        *,
        graph: bool,
        needs: Mapping[str, Any] = NOTHING,
    ) -> None:
        """`needs`: options of the compiler that the model's scheme needs on CUDA."""
        import torch

        from bench.engines.graph import attention

        self._model = model
        self._graph = graph
        self._kv = cache.check(options)
        self._eager = Eager(model)
        self.notes: Mapping[str, Any] = {}
        self._memory: SlotMemory | None = None
        self._graphs = Graphs()
        self._merged: list[str] = []
        self._run_prefill, self._run_step = self._prefill, self._step
        self._written: dict[tuple[int, int], dict[str, Any] | None] = {}
        """What a step's layer was compiled to, by batch and length of the cache."""
        refuse_form(model)
        kind = model.device.type
        self._attention = attention.way_of(options.get("attention"), kind)
        if (merges := merging_of(options, kind)) != "none":
            self._merge(merges)
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        self._kept: list[Any] | None = None
        """What the last layer says of each token while the workload is checked."""
        self._theirs = model.config._attn_implementation
        self._nothing = torch.nn.Identity()
        attention.register()
        model.set_attn_implementation(attention.NAME)
        self._norm_is_last = True
        # One graph for each prompt length, batch and layer form, and one for the step.
        torch._dynamo.config.recompile_limit = 256
        if kind == "cuda":
            leave_out_slow_products()
        how = compiling(options, graph=graph, kind=kind, needs=needs)
        self._how = how
        self._body, self._choose = self._hidden, choose
        if how.region == "layer":
            share_compiled_layer(model, how.by_length(run_layer, hidden_of))
            self._choose = how(choose)
        elif how.region == "model":
            self._body = how.by_length(self._hidden, lambda tokens, *_: tokens)
            self._choose = how(choose)

    def _merge(self, merges: str) -> None:
        """Merge what can be, as far as an option says (`compiling.MERGES`)."""
        from bench.engines.graph import new_token
        from bench.engines.graph.merging import merge

        layers = layers_of(self._model)
        self._merged = merge(layers, norms=merges in ("rotation", "norms"))
        if merges == "rotation" and self._attention == "split" and self._kv == cache.AUTO:
            self._merged += new_token.take(layers, self._model.dtype)

    def start(self, prompt: Any, n_gen: int) -> None:
        import torch

        self._release()  # before new memory is asked for
        check_window(self._model, prompt.shape[1] + n_gen)
        with self.plain():
            expected = self._expected(prompt, min(n_gen, CHECKED))
        n_batch, self._n_prompt = prompt.shape
        length = cache_length(self._n_prompt, n_gen)
        device = prompt.device
        self._prompt = prompt
        self._start = torch.full((1,), self._n_prompt, device=device)
        self._position = self._start.clone()
        self._places = torch.arange(length, device=device)
        self._token = torch.zeros(n_batch, 1, dtype=torch.long, device=device)
        self._out = torch.zeros(n_batch, length + 1, dtype=torch.long, device=device)
        self._memory = SlotMemory([self._slots(length) for _ in layers_of(self._model)])
        self.notes = {
            "cache_length": length,
            "compiled": self._how.region,
            "attention": self._attention,
            "merged": self._merged,
            "inductor": dict(self._how.inductor),
            "inductor_prompts": dict(self._how.for_prompts),
            **self._built(self._memory),
        }
        self.notes = {**self.notes, **self._agreement(expected)}
        self.reset()

    def _slots(self, length: int) -> Slots:
        """One layer's part of the cache."""
        if self._kv == cache.AUTO:
            return Slots(length, self._position)
        return NarrowSlots(length, self._position, self._kv)

    def eager(self) -> Eager:
        """Eager steps over the same numbers: of a cache in 8 bits what comes back from it."""
        if self._kv == cache.AUTO:
            return Eager(self._model)
        return Eager(self._model, self._rounding_cache)

    def _rounding_cache(self) -> dict[str, Any]:
        return rounding_cache(self._model, self._kv, prompt_too=False)

    def scored(self, tokens: Any, full: Full) -> Any:
        """Logits of every place of `tokens`, as if each before were read from the cache."""
        if self._kv == cache.AUTO:
            return full(tokens, tokens.shape[1])
        with self.plain():
            given = rounding_cache(self._model, self._kv, prompt_too=True)
            return self._model(input_ids=tokens, use_cache=True, **given).logits

    def _release(self) -> None:
        """Give back what the last workload had: graphs, what replays them, cache and tokens."""
        self._run_prefill, self._run_step = self._prefill, self._step
        self._graphs.release()
        self._memory = self._out = None  # type: ignore[assignment]  # made again at once
        give_back(self._model.device.type)

    def _expected(self, prompt: Any, n_gen: int) -> Any:
        """Tokens that eager mode makes of the prompt."""
        eager = self.eager()
        eager.start(prompt, n_gen)
        eager.prefill()
        for _ in range(n_gen - 1):
            eager.step()
        return eager.tokens()

    def _agreement(self, expected: Any) -> dict[str, Any]:
        """How many tokens of each sequence come before the first that eager mode chose otherwise.

        A sequence that has once gone another way stays different, so only the first counts.
        """
        self.reset()
        self.prefill()
        for _ in range(expected.shape[1] - 1):
            self.step()
        same = (self.tokens() == expected).long().cumprod(dim=1).sum(dim=1)
        return {"tokens_checked": expected.shape[1], "tokens_as_eager": int(same.min())}

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Meanwhile attention is transformers' own."""
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(self._theirs)
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)

    def checked(self, full: Full, tolerance: float) -> Judged:
        """The logits of a prefill and some steps as they are compiled, and the tokens that the
        steps make as they will be measured, against passes without a cache."""
        import torch

        rows = [0] if self._prompt.shape[0] == 1 else [0, -1]
        kind = type(self._model).__name__
        what = f"{kind} with a static cache and compiled steps"
        with self.plain():
            self._eager.start(self._prompt, 1)
            self._eager.checked(full, tolerance)
            self._eager.reset()
        room = self._out.shape[1] - 1 - self._n_prompt
        steps = min(self_check.STEPS, room)
        self._kept = []
        try:
            self._prefill()
            for _ in range(steps):
                self._step()
            hidden = torch.cat(self._kept, dim=1)[rows]
        finally:
            self._kept = None
        tokens = self._out[rows, : self._n_prompt + steps].clone()
        tokens[:, : self._n_prompt] = self._prompt[rows]
        expected = self._whole(tokens, steps + 1)
        norm = self._decoder.norm
        found = self._head(norm(hidden) if self._norm_is_last else hidden)
        judged = self_check.judge(found, expected, tolerance, what)
        self._check_tokens(full, tolerance, rows, what)
        return judged

    def _whole(self, tokens: Any, n: int) -> Any:
        """Logits of the last `n` places of passes over whole tokens, as transformers computes them.

        One pass without a cache; where ours rounds, one over the prompt and one over the rest.
        """
        import torch

        with self.plain():
            if self._kv == cache.AUTO:
                made = self._decoder(input_ids=tokens, use_cache=False).last_hidden_state
            else:
                kept = self._rounding_cache()
                parts = in_two_passes(self._decoder, tokens, self._n_prompt, kept)
                made = torch.cat([part.last_hidden_state for part in parts], dim=1)
        return self._head(made[:, -n:])

    def _check_tokens(self, full: Full, tolerance: float, rows: list[int], what: str) -> None:
        """Each token that is made as it will be measured is the likeliest, but for a tie."""
        import torch

        n = min(CHECKED, self._out.shape[1] - 1 - self._n_prompt)
        self.reset()
        self.prefill()
        for _ in range(n - 1):
            self.step()
        made = self.tokens()[rows]
        self.reset()
        logits_of = full if self._kv == cache.AUTO else self._whole
        logits = logits_of(torch.cat([self._prompt[rows], made[:, :-1]], dim=1), made.shape[1])
        worst = float(self_check.shortfall(made, logits).amax(0).median())
        if not worst <= 10 * tolerance:
            raise UnsupportedError(
                f"{what} generates other tokens than one pass over the same tokens", "WRONG_MODEL"
            )

    def _built(self, memory: SlotMemory) -> dict[str, Any]:
        """As `_build`; what the compiler cannot do is refused in a line."""
        with refusing(f"{type(self._model).__name__} with a static cache"):
            return self._build(memory)

    def _build(self, memory: SlotMemory) -> dict[str, Any]:
        """Compile, and capture, with the seconds that each took."""
        calls: list[Any] = []
        watch = self._decoder.norm.register_forward_hook(lambda *_: calls.append(None))
        self._hidden(self._token, self._seen(self._places[:1]), self._places[None, :1], memory)
        watch.remove()
        self._norm_is_last = len(calls) == 1
        """Else the norm is also used before the layers, and stays where it is."""
        memory.made = True
        notes: dict[str, Any] = {"cache_bytes": memory.n_bytes}
        before = time.perf_counter()
        with listening() as codes:
            self._prefill()
            if self._n_prompt > 1:  # else the prompt is a step
                codes.clear()
            self._step()
        for _ in range(WARM - 1):
            self._prefill()
            self._step()
        self._wait()
        notes["compile_s"] = time.perf_counter() - before
        notes["step"] = self._step_of(codes)
        if self._graph:
            before = time.perf_counter()
            self._run_prefill = self._graphs.capture(self._prefill)
            self._run_step = self._graphs.capture(self._step)
            self._wait()
            notes["capture_s"] = time.perf_counter() - before
            notes["graph_bytes"] = self._graphs.n_bytes
        return notes

    def _step_of(self, codes: Sequence[str]) -> dict[str, Any] | None:
        """What a step calls in its largest compiled piece: a layer, or the whole model.

        None if nothing was compiled. A step that was compiled for an earlier workload is the same.
        """
        key = (self._prompt.shape[0], self._places.shape[0])
        if codes:
            # A cache of 8 bits that becomes floats at each step is as large as a weight, too.
            widens = self._kv != cache.AUTO and self._attention == "sdpa"
            largest = 0 if widens else largest_matrix(layers_of(self._model))
            self._written[key] = of_step(codes, largest)
        return self._written.get(key)

    def _wait(self) -> None:
        import torch

        if self._prompt.device.type != "cpu":
            torch.accelerator.synchronize()

    def _hidden(self, tokens: Any, mask: Any, positions: Any, memory: Any) -> Any:
        """What the last layer says of the last of `tokens`, before the final norm."""
        hidden = self._decoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=memory,
            use_cache=True,
        ).last_hidden_state
        shape = (hidden.shape[0], 1, hidden.shape[2])
        # A copy has the same strides after any length, so that what comes next is compiled once.
        return hidden.new_empty(shape).copy_(hidden[:, -1:]) if hidden.shape[1] > 1 else hidden

    def _run(self, tokens: Any, mask: Any, positions: Any, after: int) -> None:
        """Process tokens, move `position` by `after`, and choose the token that stands there."""
        norm = self._decoder.norm if self._norm_is_last else self._nothing
        if self._norm_is_last:
            self._decoder.norm = self._nothing
        try:
            hidden = self._body(tokens, mask, positions, self._memory)
        finally:
            if self._norm_is_last:
                self._decoder.norm = norm
        if self._kept is not None:
            self._kept.append(hidden.clone())
        if after:
            self._position.add_(after)
        self._choose(norm, self._head, hidden, self._position, self._token, self._out)

    def _prefill(self) -> None:
        self._position.copy_(self._start)
        if self._n_prompt == 1:  # one token is a step, at position 0
            self._position.zero_()
            self._advance(self._prompt)
            return
        self._run(self._prompt, None, self._places[None, : self._n_prompt], after=0)

    def _step(self) -> None:
        self._advance(self._token)

    def _advance(self, token: Any) -> None:
        """Process `token` at `position`, and choose the one after it."""
        self._run(token, self._seen(self._position), self._position[None], after=1)

    def _seen(self, last: Any) -> Any:
        """What tells a step's attention to look at the places up to `last` [1]."""
        seen = last if self._attention == "split" else self._places <= last
        return seen[None, None, None]

    def reset(self) -> None:
        self._made = 0

    def prefill(self) -> None:
        self._run_prefill()
        self._made = 1

    def step(self) -> None:
        self._run_step()
        self._made += 1

    def rewind(self) -> None:
        self._position.copy_(self._start)
        self._token.copy_(self._out[:, self._n_prompt : self._n_prompt + 1])
        self._made = 1

    def tokens(self) -> Any:
        return self._out[:, self._n_prompt : self._n_prompt + self._made].clone()
