"""A linear layer of int4 weights in groups, multiplied by gemlite (0.6, Apache-2.0).

The numbers are those of `int4-weight-only`: torchao's codes and scales for tinygemm, bit for bit.
What differs is what is held of a group's place: here what code 0 stands for, there code 8, each in
the model's dtype.

    w = code * scale + low

At up to 4 rows gemlite adds parts of a sum in any order, in float32 as it is told here: the last
bits of a product may differ from call to call. Imports torch when it is imported, so it is imported
only inside functions.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from copy import copy
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import nn

from bench.errors import UnsupportedError
from bench.quantization.layers import dims, dtype_of, replace

GROUP = 64
MOST = 15
"""The largest code."""
MIDDLE = 8
ROWS = (1, 5, 65)
"""Rows at which a shape is checked: gemlite has a kernel of its own for each."""
NEAR = 0.02
"""What a product may differ by, as a share of the largest: 8 bits of mantissa."""


class Grouped(NamedTuple):
    """A weight [n_out, n_in] in int4."""

    codes: torch.Tensor
    """0 to 15 in uint8, [n_out, n_in]."""
    scales: torch.Tensor
    """[n_out, groups], in the weight's dtype."""
    lows: torch.Tensor
    """What code 0 stands for, [n_out, groups]."""


def grouped(weight: torch.Tensor, group: int = GROUP) -> Grouped:
    """Codes as torchao 0.18 makes them for tinygemm, in the weight's own dtype throughout."""
    n_out, n_in = weight.shape
    x = weight.reshape(n_out, n_in // group, group)
    least, largest = x.amin(-1), x.amax(-1)
    tiny = torch.finfo(weight.dtype).smallest_normal
    scales = ((largest - least) / float(MOST)).clamp(min=tiny)
    lows = (least + scales * MIDDLE) - scales * MIDDLE
    codes = ((x - lows[..., None]) / scales[..., None]).round().clamp(0, MOST)
    return Grouped(codes.to(torch.uint8).reshape(n_out, n_in), scales, lows)


def weight_of(found: Grouped) -> torch.Tensor:
    """What the codes stand for, in float32."""
    n_out, n_in = found.codes.shape
    codes = found.codes.reshape(n_out, found.scales.shape[1], -1).float()
    made = codes * found.scales.float()[..., None] + found.lows.float()[..., None]
    return made.reshape(n_out, n_in)


class GemliteLinear(nn.Module):
    """In the place of a linear layer; see this file's head."""

    codes: torch.Tensor
    """Eight in an int32, [n_in / 8, n_out]."""
    scales: torch.Tensor
    """[groups, n_out]."""
    lows: torch.Tensor
    spare: torch.Tensor | None
    """gemlite's scale of all scales, which int4 has not."""

    def __init__(self, old: nn.Linear) -> None:
        super().__init__()
        import gemlite

        source = old.weight.detach()
        self.in_features, self.out_features = old.in_features, old.out_features
        found = grouped(source)
        kind = gemlite.DType.BF16 if source.dtype == torch.bfloat16 else gemlite.DType.FP16
        made = gemlite.GemLiteLinear(
            4,
            group_size=GROUP,
            in_features=old.in_features,
            out_features=old.out_features,
            input_dtype=kind,
            output_dtype=kind,
        )
        # It holds -zeros * scales: in float32 that is `lows` again to the last bit of the dtype.
        made.pack(found.codes, found.scales, -(found.lows.float() / found.scales.float()))
        codes, scales, lows, *spare = (one.detach() for one in made.get_tensor_args())
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("lows", lows.to(source.dtype))
        self.register_buffer("spare", spare[0] if spare else None)
        self.how = tuple(int(one) for one in made.get_meta_args())
        """gemlite's words for what the tensors are."""
        self.bias = old.bias
        if not self._holds(found):
            raise UnsupportedError(
                f"gemlite-int4: gemlite {metadata.version('gemlite')} packs weights in another "
                "way than 0.6.0: pip install gemlite==0.6.0"
            )

    def _holds(self, found: Grouped) -> bool:
        """Whether what gemlite holds is what it was given."""
        if self.codes.dtype != torch.int32 or self.codes.shape[0] * 8 != self.in_features:
            return False
        some = few(self.out_features).to(self.codes.device)
        held = (
            (self.codes_of(some), found.codes[some]),
            (self.scales.t(), found.scales),
            (self.lows.t(), found.lows),
        )
        return all(torch.equal(mine, given) for mine, given in held)

    def codes_of(self, some: torch.Tensor) -> torch.Tensor:
        """Codes in uint8 [outputs, n_in] of some outputs."""
        shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=self.codes.device)
        apart = (self.codes[:, some][:, None] >> shifts[None, :, None]) & MOST
        return apart.flatten(0, 1).t().to(torch.uint8)

    @property
    def weight(self) -> torch.Tensor:
        """The packed codes; for those who ask which device and form a layer has."""
        return self.codes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = [self.codes, self.scales, self.lows]
        if self.spare is not None:
            tensors.append(self.spare)
        y: torch.Tensor = torch.ops.gemlite.forward_functional(
            x, self.bias, tensors, list(self.how)
        )
        return y

    def joined(self, parts: Sequence[GemliteLinear], bias: torch.Tensor | None) -> GemliteLinear:
        """One layer with the outputs of all, of which this one is the first."""
        made = copy(self)
        made._buffers = dict(self._buffers)
        made._parameters = dict(self._parameters)
        made.out_features = sum(part.out_features for part in parts)
        for name in ("codes", "scales", "lows"):
            whole = torch.cat([getattr(part, name) for part in parts], dim=1)
            setattr(made, name, whole.contiguous())
        if bias is not None:
            made.bias = nn.Parameter(bias, requires_grad=False)
        return made

    def quantized_parts(self) -> tuple[int, list[torch.Tensor]]:
        """Number of weights, and the tensors that hold them (`bench.quantization.holding`)."""
        return self.in_features * self.out_features, [self.codes, self.scales, self.lows]


def few(n_out: int) -> torch.Tensor:
    """Outputs that are looked at."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, n_out, (64,), generator=draw)


CHECKED: Final[set[tuple[int, int, str]]] = set()
"""Shapes whose product was checked in this process, by device."""


def convert(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Replace the layers, then hold each new shape's product against the weight it stands for."""
    import gemlite

    # Else parts of a step's sums are added in bfloat16 from Hopper on, and not those of a prompt's,
    # by which quality is read.
    gemlite.set_native_atomic_bfp16(False)
    if not CHECKED and torch.cuda.is_available():
        gemlite.load_config(str(chosen_file()), print_error=False)
    replace(model, names, GemliteLinear)
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, GemliteLinear)
        shape = (layer.out_features, layer.in_features, str(layer.codes.device))
        if shape not in CHECKED:
            check(layer, name)
            CHECKED.add(shape)
    return model


def check(layer: GemliteLinear, name: str) -> None:
    """UnsupportedError if a product on this device is not that of the weight."""
    draw = torch.Generator().manual_seed(0)
    device = layer.codes.device
    some = few(layer.out_features).to(device)
    scales, lows = layer.scales[:, some].t(), layer.lows[:, some].t()
    weight = weight_of(Grouped(layer.codes_of(some), scales, lows))
    for n_rows in ROWS:
        x = torch.randn(n_rows, layer.in_features, generator=draw)
        x = x.to(device=device, dtype=layer.scales.dtype)
        wanted = x.float() @ weight.t()
        if layer.bias is not None:
            wanted = wanted + layer.bias[some].float()
        off = (layer(x)[:, some].float() - wanted).abs().amax()
        if not bool(off <= NEAR * wanted.abs().amax()):
            raise UnsupportedError(
                f"gemlite-int4: layer {name} computes a wrong product at {n_rows} rows on "
                f"{device}; use int4-weight-only"
            )


def fits(layer: nn.Linear) -> str | None:
    """gemlite stops at a row that groups do not fill."""
    return dims(layer, n_in=GROUP, who="a row of groups") or dtype_of(
        layer, "bfloat16", "gemlite's int4"
    )


def chosen_file() -> Path:
    """Where gemlite's choice of tiles is kept, so that replicates have the same."""
    from bench.models.weights import cache_folder

    card = torch.cuda.get_device_name().lower().replace(" ", "-")
    return cache_folder() / "gemlite" / f"{card}-{metadata.version('gemlite')}.json"


def tiles() -> dict[str, str]:
    """What was chosen in this process or before it, kept for the next one: kernel, rows and matrix
    -> tile."""
    if not CHECKED or not torch.cuda.is_available():
        return {}  # nothing was multiplied here
    import gemlite

    file = chosen_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    gemlite.cache_config(str(file))
    found = {}
    for kernel, chosen in json.loads(file.read_text(encoding="utf-8")).items():
        for key, tile in chosen.items():
            rows, n_out, n_in, group, *_ = ast.literal_eval(key)
            if group != GROUP:
                continue
            told = ", ".join(f"{name} {value}" for name, value in sorted(tile.items()))
            found[f"{kernel.lower()}: {n_out} x {n_in}, {rows} rows"] = told
    return found
