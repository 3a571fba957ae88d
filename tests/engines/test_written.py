"""What inductor's code says of itself."""

from __future__ import annotations

from torch import nn

from bench.engines.graph.written import largest_matrix, of_step, told

CODE = """
triton_red_fused_mm_1 = async_compile.triton('triton_red_fused_mm_1', '''
def call(self, args):
        buf0 = empty_strided_cuda((1, 14336), (14336, 1), torch.bfloat16)
        triton_red_fused_mm_1.run(arg0_1, buf0, 1, 4096, stream=stream0)
        buf1 = empty_strided_cuda((4096, 14336), (14336, 1), torch.bfloat16)
        triton_poi_fused__to_copy_2.run(arg1_1, buf1, 58720256, stream=stream0)
        extern_kernels.mm(buf0, buf1, out=buf2)
        # Topologically Sorted Source Nodes: [made], Original ATen: [aten.mm]
        buf3 = torch.ops.gpu_cost_bench.attend.default(buf2, arg2_1, arg3_1, arg4_1, 0.08)
        triton_tem_fused__int_mm_3.run(buf3, arg5_1, buf4, stream=stream0)
        return (buf4, )
"""


def test_launches_and_the_largest_thing_made() -> None:
    assert told(CODE) == {
        "calls": 5,
        "by": {
            "triton": 2,
            "extern_kernels.mm": 1,
            "torch.ops.gpu_cost_bench.attend": 1,
            "triton template": 1,
        },
        "largest_made": 4096 * 14336,
    }


def test_the_largest_matrix_is_of_linear_layers() -> None:
    assert largest_matrix([nn.Linear(8, 4), nn.Sequential(nn.Linear(4, 9), nn.LayerNorm(99))]) == 36
    assert largest_matrix([nn.LayerNorm(9)]) == 0


def test_copies_are_told_of_any_piece_and_left_open_where_they_cannot_be_seen() -> None:
    small = CODE.replace("(4096, 14336), (14336, 1)", "(8, 8), (8, 1)")
    opaque = small.replace("extern_kernels.mm", "torch.ops.bitsandbytes.gemm_4bit.default")
    returned = opaque + "        assert_size_stride(buf9, (4096, 14336), (14336, 1), 'op')\n"
    matrix = 4096 * 14336
    for codes, copies in (
        ([small], False),
        ([small, CODE], True),
        ([opaque], None),
        ([returned], True),
    ):
        step = of_step(codes, matrix)
        assert step is not None
        assert step["copies_weights"] is copies
    assert (of_step([small], 0) or {})["copies_weights"] is None
    assert of_step([], matrix) is None
    assert of_step(["cpp_wrapper_src = '...'", CODE], matrix) is None
