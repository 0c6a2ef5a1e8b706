"""The sections of a run's configuration: frozen models in which an unknown key is a mistake."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """Base of every part of the configuration: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PrepareConfig(Section):
    """Which prompts are played, and how they are divided."""

    prompt_column: str = Field("prompt", description="Column of the prompts file that holds the user's message.")
    split: str = Field("train", description="Split to read when `prompts` is a Hugging Face dataset id.")
    prompts_per_iteration: int = Field(
        0, ge=0, description="Prompts in each iteration's part; 0 divides all prompts evenly over the iterations."
    )
    held_out: int = Field(64, ge=2, description="Prompts that are never trained on; evaluate answers them.")
    max_prompt_tokens: int = Field(
        512, ge=8, description="Longer prompts (chat template included) are dropped, and counted."
    )


class GenerateConfig(Section):
    """How the policy answers (paper, section 5.1: temperature 1, top-p 1; the released code samples at 0.7 and 0.9)."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="Which library samples.")
    responses: int = Field(5, ge=2, description="K, the responses to each prompt.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; 1 samples from the policy itself.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; 1 samples from the policy itself.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Arithmetic of the sampler.")
    chunk_size: int = Field(
        64, ge=1, description="Prompts that are seeded, generated and committed together; shards hold whole chunks."
    )
    memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM may take.")


class LlmJudgeConfig(Section):
    """A language model as the judge (`openai:`, `vllm:` and `transformers:`)."""

    max_characters: int = Field(
        16000, ge=100, description="Longer prompts and responses are shown to a language model cut to this length."
    )
    context: int = Field(
        8192, ge=256, description="Longest comparison, in tokens, that a language model in this process is shown."
    )
    memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM may take to judge.")
    top_logprobs: int = Field(
        20, ge=2, le=20, description="Most likely first tokens that an endpoint is asked for, with log-probabilities."
    )
    concurrency: int = Field(8, ge=1, description="Requests that an endpoint answers at one time.")
    requests_per_second: float = Field(10.0, gt=0, description="Rate at which requests are sent to an endpoint.")
    timeout: float = Field(60.0, gt=0, description="Seconds that an endpoint may stay silent.")
    retries: int = Field(
        5, ge=0, description="Repetitions of a request that an endpoint refused for now (429, 5xx) or dropped."
    )
    max_requests: int = Field(
        10_000, ge=1, description="Requests that one task may send to an endpoint, repetitions included."
    )
    prompt_price: float = Field(0.0, ge=0, description="What an endpoint charges for a million tokens that it reads.")
    completion_price: float = Field(0.0, ge=0, description="The same for a million tokens that it writes.")
    max_cost: float = Field(
        0.0, ge=0, description="What one task may spend at an endpoint, in the currency of the prices; 0 is no limit."
    )

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> LlmJudgeConfig:
        if self.max_cost and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price and completion_price")
        return self


class MixtureMember(Section):
    """One preference model of a mixture."""

    model: str = Field(min_length=1, description="Its URI.")
    weight: float = Field(1.0, gt=0, description="Its share, relative to the other members' weights.")
    temperature: float = Field(1.0, gt=0, description="Its logits are divided by this before they are weighed.")


class JudgeConfig(Section):
    """How the preference model computes, wherever it is asked: when ranking and when evaluating."""

    FREE: ClassVar[dict[str, Any]] = {
        "cache": True,
        "llm": {
            "memory_fraction",
            "concurrency",
            "requests_per_second",
            "timeout",
            "retries",
            "max_requests",
            "prompt_price",
            "completion_price",
            "max_cost",
        },
    }
    """Values that change no logit."""

    batch_tokens: int = Field(8192, ge=512, description="Tokens of a forward pass of the preference model.")
    dtype: Literal["bfloat16", "float32"] = Field("float32", description="Arithmetic of the preference model.")
    pairrm: Literal["fast", "llm-blender"] = Field(
        "fast",
        description="What runs PairRM: the scorer of this system, or the package, a prompt at a time.",
    )
    cache: bool = Field(True, description="Keep every judgement on disk, so that a retry asks for none again.")
    llm: LlmJudgeConfig = LlmJudgeConfig()
    mixture: tuple[MixtureMember, ...] = Field(
        (), description="Members of the preference model `mixture`: [{model: URI, weight: 1, temperature: 1}, …]."
    )


class RankConfig(Section):
    """How preferences become probabilities and pairs."""

    estimator: Literal["paper", "official"] = Field(
        "paper",
        description="`paper` keeps the pairwise probabilities, `official` first collapses them to a score a response.",
    )
    temperature: float = Field(1.0, gt=0, description="tau: larger values pull every probability towards 1/2.")
    length_corrected: bool = Field(
        False, description="Remove from the logits what the responses' difference in tokens explains, chunk by chunk."
    )
    soft_duplicates: bool = Field(False, description="Pull the probabilities of nearly equal responses towards 1/2.")
    selection: Literal["best-worst", "best-worst-random", "length-matched", "all"] = Field(
        "best-worst",
        description="What a prompt trains on: the most and the least preferred response, these and a random third, the "
        "two of most different preference among those of like length, or every different response.",
    )
    minimum_margin: float = Field(
        0.0, ge=0, le=1, description="A prompt is left out if the two win probabilities of its pair differ by less."
    )
    length_tolerance: float = Field(
        0.1, ge=0, le=1, description="With `length-matched`: largest difference in tokens, as a share of the longer."
    )

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> RankConfig:
        default = type(self).model_fields["length_tolerance"].default
        if self.selection != "length-matched" and self.length_tolerance != default:
            raise ValueError("length_tolerance needs selection=length-matched: others do not look at the length")
        return self


class LoraConfig(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685): what is trained in the place of the weights, if anything is."""

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


class TrainConfig(Section):
    """The SPPO square loss and its optimisation (paper, section 5.1; official values in the `official` preset)."""

    eta: float = Field(1000.0, gt=0, description="eta of the square loss; the released code calls 1/eta beta.")
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate of RMSProp.")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the schedule that warms up linearly.")
    epochs: int = Field(1, ge=1, description="Passes over the iteration's pairs.")
    schedule_epochs: int = Field(
        1, ge=1, description="Passes that the linear schedule is laid out for; the paper stops an 18-pass one after 1."
    )
    global_batch: int = Field(64, ge=1, description="Pairs of one optimizer step.")
    micro_tokens: int = Field(
        16384, ge=1, description="Tokens of one pass through the model, as memory allows; does not change the update."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Arithmetic of the forward pass; trained weights and optimizer state are float32."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations instead of keeping them.")
    checkpoint_every: int = Field(50, ge=1, description="Optimizer steps between two checkpoints.")
    audit_fraction: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Share of the pairs whose reference log-probabilities are recomputed and compared.",
    )
    audit_tolerance: float = Field(
        0.1, gt=0, description="Largest accepted mean |difference| of a token's reference log-probability, in nats."
    )
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _schedule_covers_epochs(self) -> TrainConfig:
        if self.schedule_epochs < self.epochs:
            raise ValueError(f"schedule_epochs ({self.schedule_epochs}) must be at least epochs ({self.epochs})")
        return self


class GateConfig(Section):
    """When to go on, when to stop, and what counts as an aligned model."""

    keep_previous_below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Keep the previous model when the interval of the win rate over it ends below this.",
    )
    second_judge_below: float = Field(
        0.5, ge=0, le=1, description="Keep it too when the second judge's interval, if there is one, ends below this."
    )
    stop_below: float = Field(
        0.0, ge=0, le=1, description="Stop playing when the win rate over the previous model is below this."
    )
    max_length_growth: float = Field(
        1.5,
        ge=0,
        description="Keep the previous model when the mean answer is longer than this many times the base's; 0 is off.",
    )
    max_instruction_drop: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Keep the previous model when the share of instructions followed is more than this below the "
        "base's, and the interval of that fall is above 0.",
    )
    required_vs_base: float = Field(
        0.5, ge=0, le=1, description="The run fails its gate unless the win rate's interval over the base starts above."
    )


class InstructionsConfig(Section):
    """Prompts whose instructions code can check, as in IFEval (arXiv 2311.07911); they are answered greedily."""

    prompts: str = Field(
        "package:sppo", min_length=1, description="A .jsonl file in IFEval's form, s3://… to one, or package:sppo."
    )
    count: int = Field(
        541, ge=0, description="At most so many of them, the first, are answered; 0: instructions are not measured."
    )
    max_tokens: int = Field(1024, ge=1, description="Longest answer, in tokens.")


class EvaluateConfig(Section):
    """How a new policy is measured against the previous one and the base model, on held-out prompts."""

    samples: int = Field(3, ge=1, description="Responses of each model to each held-out prompt.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 answers greedily.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the prompts behind each 95 % interval.")
    length_match: float = Field(
        0.1, ge=0, lt=1, description="Answers whose lengths differ by at most this share count as equally long."
    )
    second_judge: str = Field(
        "", description="Another preference model, for win rates that the training did not optimise; empty: none."
    )
    panel: int = Field(32, ge=1, description="Held-out prompts shown side by side in the report.")
    instructions: InstructionsConfig = InstructionsConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _greedy_answers_once(self) -> EvaluateConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples ({self.samples}) must be 1 where temperature is 0: greedy answers are all the same"
            )
        return self


class PublishConfig(Section):
    """What is handed out at the end."""

    registered_model: str = Field(
        "sppo",
        pattern=r"^[^/:.%\"']+$",
        description="Name in the MLflow model registry, of which every iteration's model is a version.",
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Type of the published weights.")


class PricesConfig(Section):
    """What an hour of a stage costs, in whatever currency, for the report; a stage without a price is not counted."""

    generate: float = Field(0.0, ge=0, description="Price of an hour of the machine that a generate task runs on.")
    rank: float = Field(0.0, ge=0, description="The same of a rank task.")
    train: float = Field(0.0, ge=0, description="The same of all machines that train together.")
    evaluate: float = Field(0.0, ge=0, description="The same of an evaluate task.")
