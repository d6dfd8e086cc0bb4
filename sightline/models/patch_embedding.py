"""Qwen's patch embedding as the matrix product that it is: its convolution's stride is its kernel.

The same numbers as Conv3d, whose general algorithm took about half of a small vision tower's time on a CPU.
"""

from torch import Tensor, nn
from torch.nn.functional import linear


class PatchConv3d(nn.Conv3d):
    """A Conv3d over inputs that are exactly one kernel large, (N, C, T, H, W) -> (N, E, 1, 1, 1)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in torch)
        """One inner product per output channel."""
        assert input.shape[2:] == self.weight.shape[2:], "each input is one patch"
        return linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def use_linear_patches(convolution: nn.Module) -> None:
    """Turn a loaded patch embedding's Conv3d into a PatchConv3d; its weights stay."""
    assert type(convolution) is nn.Conv3d
    assert convolution.stride == convolution.kernel_size
    convolution.__class__ = PatchConv3d
