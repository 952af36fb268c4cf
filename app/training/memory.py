"""Settings that trade time for memory, or a compiler's time for the run's; they change what is learned by rounding
alone.

Guarantees: what a recipe cannot do with them is refused when the settings are read.
"""

from typing import Literal

from app.core.settings import Settings

DType = Literal["auto", "bfloat16", "float32"]
"""`auto`: bfloat16 on a GPU and on processors with products of it, elsewhere float32."""
Kernels = Literal["auto", "on", "off"]


class MemorySettings(Settings):
    """How a worker computes."""

    checkpoint_activations: bool = False
    """Keep of each block what goes into it, and compute the rest again on the way back: less memory, a third more
    time. The same weights, to the bit where the machine rounds alike."""

    offload_optimizer: bool = False
    """Hold masters and Adam's moments in main memory, and step there (ZeRO 1 to 3). Without a GPU all is there already:
    it changes nothing."""

    offload_parameters: bool = False
    """Hold the weights there too, but for the block that computes (ZeRO 3). Without a GPU it changes nothing."""

    compile: bool = False
    """Compile the model (torch.compile, for sequences of any length); not at ZeRO 3, which gathers weights between."""

    liger: Kernels = "auto"
    """Liger's fused norms, rotations and gates: `auto` where liger-kernel, a GPU and an architecture that it knows are
    there; `on` refuses a run where they are not."""

    def fault(self, *, zero_stage: int) -> str | None:
        """What does not go together, with the setting to change; None where all does."""
        if self.offload_parameters and zero_stage < 3:
            return "train.zero_stage must be 3 for train.memory.offload_parameters: others hold the weights whole"
        if self.offload_optimizer and not zero_stage:
            return "train.zero_stage must be 1, 2 or 3 for train.memory.offload_optimizer: stage 0 divides nothing"
        if self.compile and zero_stage == 3:
            return "train.zero_stage must be 0, 1 or 2 for train.memory.compile: stage 3 gathers weights in between"
        return None
