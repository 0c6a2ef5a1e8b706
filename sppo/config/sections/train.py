"""The section `train`: the update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sppo.config.plugins import OBJECTIVES
from sppo.config.sections.arithmetic import AUTO, Arithmetic
from sppo.config.sections.section import Free, Readers, Section


class LoraConfig(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685): what is trained in the place of the weights, if anything is."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "rank": ("train",),
        "alpha": ("train",),
        "dropout": ("train",),
        "target_modules": ("train",),
    }

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0 trains all weights of the policy instead.")
    alpha: float = Field(16.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped.")
    target_modules: tuple[str, ...] = Field(
        ("all-linear",), min_length=1, description="Layers that get adapters, such as [q_proj, v_proj]; never the head."
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name_needs_no_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> LoraConfig:
        values = self.model_dump()
        vain = sorted(name for name, field in type(self).model_fields.items() if values[name] != field.default)
        if self.rank == 0 and vain:
            raise ValueError(f"{', '.join(vain)} needs a rank of at least 1: with rank 0 there are no adapters")
        return self


class RspoConfig(Section):
    """Of the objective `rspo`: what holds the policy to the base (Tang et al., arXiv 2503.00030)."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {"forward": ("train",), "reverse": ("train",)}

    forward: float = Field(0.1, ge=0, description="With `rspo`: weight of the forward divergence, KL(base, policy).")
    reverse: float = Field(0.5, ge=0, description="With `rspo`: weight of the reverse divergence, KL(policy, base).")


class TrainConfig(Section):
    """The objective and its optimisation (paper, section 5.1; official values in the `official` preset)."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "objective": ("train",),
        "eta": ("train",),
        "learning_rate": ("train",),
        "warmup_ratio": ("train",),
        "epochs": ("train",),
        "schedule_epochs": ("train",),
        "global_batch": ("train",),
        "max_tokens": ("train",),
        "cut": ("train",),
        "micro_tokens": Free("how a step is divided into passes; gradients are summed over them"),
        "max_grad_norm": ("train",),
        "dtype": ("train",),
        "gradient_checkpointing": Free("activations are computed again instead of kept"),
        "checkpoint_every": Free("a training that is resumed goes on as if it had not stopped"),
        "audit_fraction": ("train",),
        "audit_tolerance": ("train",),
    }

    objective: Annotated[str, OBJECTIVES] = Field("sppo", description="The loss of a prompt.")
    eta: float = Field(1000.0, gt=0, description="eta of the objective; the released code calls 1/eta beta.")
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate of RMSProp.")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the schedule that warms up linearly.")
    epochs: int = Field(1, ge=1, description="Passes over the iteration's pairs.")
    schedule_epochs: int = Field(
        1, ge=1, description="Passes that the linear schedule is laid out for; the paper stops an 18-pass one after 1."
    )
    global_batch: int = Field(64, ge=1, description="Pairs of one optimizer step.")
    max_tokens: int = Field(
        0, ge=0, description="Longest prompt and response together; what is longer is cut. 0: nothing is."
    )
    cut: Literal["fit", "halves"] = Field(
        "fit",
        description="How: to what fits together, or both to halves, as the released code does (training.md).",
    )
    micro_tokens: int = Field(
        16384, ge=1, description="Tokens of one pass through the model, as memory allows; does not change the update."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    dtype: Arithmetic = Field(
        "bfloat16",
        description=f"Arithmetic of the forward pass; trained weights and optimizer state are float32. {AUTO}",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations instead of keeping them.")
    checkpoint_every: int = Field(50, ge=1, description="Optimizer steps between two checkpoints.")
    audit_fraction: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Share of the pairs, at least 16, whose reference log-probabilities are recomputed and compared.",
    )
    audit_tolerance: float = Field(
        0.1, gt=0, description="Largest accepted mean |difference| of a token's reference log-probability, in nats."
    )
    lora: LoraConfig = LoraConfig()
    rspo: RspoConfig = RspoConfig()

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> TrainConfig:
        if self.objective != "rspo" and self.rspo != RspoConfig():
            raise ValueError(f"rspo needs objective=rspo: with {self.objective} nothing reads it")
        return self

    @model_validator(mode="after")
    def _a_cut_has_two_sides(self) -> TrainConfig:
        if self.max_tokens == 1:
            raise ValueError("max_tokens: 1 has no room for a prompt and a response; give at least 2, or 0")
        if self.cut != "fit" and not self.max_tokens:
            raise ValueError(f"cut={self.cut} needs max_tokens: without it nothing is cut")
        return self

    @model_validator(mode="after")
    def _schedule_covers_epochs(self) -> TrainConfig:
        if self.schedule_epochs < self.epochs:
            raise ValueError(f"schedule_epochs ({self.schedule_epochs}) must be at least epochs ({self.epochs})")
        return self
