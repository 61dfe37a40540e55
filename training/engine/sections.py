"""Settings of every stage, one frozen dataclass a section.

Standard library only, so that the web process may import it. config.py reads and checks them.
"""

import dataclasses


def setting(default, doc, *, ge=None, gt=None, le=None, lt=None, choices=None):
    """A documented dataclass field with its range. `doc` says what it does, and in which unit."""
    return dataclasses.field(
        default=default, metadata={"doc": doc, "ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices}
    )


def section(cls):
    return dataclasses.field(default_factory=cls, metadata={"doc": (cls.__doc__ or "").strip()})


_config = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)


@_config
class RunConfig:
    """What every stage shares."""

    seed: int = setting(0, "Seeds every random generator of the run.", ge=0, lt=2**63)
    device: str = setting(
        "auto", "Where tensors live; auto takes a GPU if there is one.", choices=("auto", "cpu", "cuda")
    )
    dtype: str = setting(
        "auto",
        "Arithmetic of the forward pass; auto is bfloat16 on a GPU and float32 on a CPU.",
        choices=("auto", "float32", "bfloat16"),
    )
    threads: int = setting(0, "CPU threads of torch; 0 takes every core.", ge=0, le=1024)
    devices: int = setting(
        1, "Processes that share a training stage, one a device (or on a CPU a few cores), under torchrun.", ge=1, le=64
    )
    checkpoint_every_steps: int = setting(
        0, "Steps between checkpoints that a killed run resumes from; 0 is none.", ge=0
    )
    checkpoint_every_seconds: float = setting(30.0, "Seconds between such checkpoints; whichever comes first.", gt=0)
    keep_checkpoints: int = setting(2, "How many of the newest resume checkpoints stay on disk.", ge=1)
    log_every_steps: int = setting(1, "Steps between two metrics events.", ge=1)


@_config
class InputsConfig:
    """Paths that a stage reads. Which of them it needs stands in the stage's own page."""

    policy: str = setting("", "Checkpoint directory that the stage starts from (or generates with).")
    ref_policy: str = setting("", "Checkpoint directory of the KL reference: always the SFT policy.")
    reward_model: str = setting("", "Checkpoint directory of the reward model.")
    tokenizer: str = setting("", "Directory or tokenizer.json, where no policy brings one (pretraining).")
    documents: str = setting(
        "", "Text for tokenizer and pretraining: .txt (blank line between documents), .jsonl with `text`, or a folder."
    )
    demonstrations: str = setting("", "Demonstrations, JSONL with `messages`; several files separated by commas.")
    rankings: str = setting("", "Rankings in the native format, JSONL.")
    prompts: str = setting("", "Prompts, JSONL with `messages` and `pool`.")
    frontier: str = setting("", "Further policies' directories for evaluate's KL frontier, separated by commas.")
    resume: str = setting(
        "", "Resume checkpoint of an earlier attempt at the same run, until the run directory has one of its own."
    )


@_config
class ModelConfig:
    """Shape of a policy that is made from scratch (Llama family)."""

    hidden_size: int = setting(128, "Width D of the residual stream.", ge=8)
    intermediate_size: int = setting(344, "Width of the gated MLP.", ge=8)
    n_layers: int = setting(4, "Decoder layers L.", ge=1)
    n_heads: int = setting(4, "Attention heads H.", ge=1)
    n_kv_heads: int = setting(4, "Key-value heads; a divisor of n_heads.", ge=1)
    max_positions: int = setting(256, "Longest sequence, tokens.", ge=8)
    rope_theta: float = setting(10000.0, "Base of the rotary embedding.", gt=0)
    norm_eps: float = setting(1e-5, "Epsilon of RMSNorm.", gt=0)
    tie_embeddings: bool = setting(True, "Whether the output matrix is the input embedding.")


@_config
class TokenizerConfig:
    """Training of the byte-level BPE."""

    vocab_size: int = setting(2048, "Tokens, the 256 bytes and the special tokens included.", ge=264)


@_config
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    learning_rate: float = setting(3e-4, "Peak learning rate.", gt=0, le=1)
    schedule: str = setting(
        "linear", "Shape after warm-up, down to final_ratio.", choices=("constant", "linear", "cosine")
    )
    warmup_steps: int = setting(0, "Optimizer steps of linear warm-up.", ge=0)
    final_ratio: float = setting(0.0, "Last learning rate as a share of the peak.", ge=0, le=1)
    beta1: float = setting(0.9, "Decay of the first moment.", ge=0, lt=1)
    beta2: float = setting(0.95, "Decay of the second moment.", ge=0, lt=1)
    eps: float = setting(1e-5, "Added to the root of the second moment.", gt=0)
    weight_decay: float = setting(0.0, "Decoupled weight decay on matrices; gains and biases have none.", ge=0)
    max_grad_norm: float = setting(1.0, "Global gradient norm is clipped to this; 0 does not clip.", ge=0)


@_config
class LoraConfig:
    """A low-rank adapter in place of training all weights (arXiv:2106.09685), for sft, reward_model and ppo."""

    rank: int = setting(0, "Rank of the adapter; 0 trains all weights.", ge=0, le=1024)
    alpha: float = setting(16.0, "The adapter's addition is multiplied by alpha / rank.", gt=0)
    targets: str = setting(
        "all", "Matrices that get one: all of a layer, or the attention's.", choices=("all", "attention")
    )
    merge: bool = setting(
        True, "Whether output/ is a full checkpoint, the adapter beside it in adapter/; else output/ is the adapter."
    )


@_config
class SamplingConfig:
    """How completions are drawn. Rollouts of PPO take only temperature and length."""

    max_new_tokens: int = setting(72, "Longest completion, tokens.", ge=1, le=65536)
    temperature: float = setting(1.0, "Divides the logits; 0 is greedy.", ge=0, le=100)
    top_k: int = setting(0, "Keep this many likeliest tokens; 0 keeps all.", ge=0)
    top_p: float = setting(1.0, "Keep the likeliest tokens that reach this mass.", gt=0, le=1)
    batch_size: int = setting(256, "Completions decoded at once.", ge=1)


@_config
class CleaningConfig:
    """What happens to documents before they train a tokenizer or a policy; all of it is counted."""

    unicode: str = setting(
        "none",
        "Unicode form that texts are brought into, line ends as newlines and control characters out; none leaves them.",
        choices=("NFC", "NFKC", "none"),
    )
    min_characters: int = setting(0, "Shorter documents are left out.", ge=0)
    max_characters: int = setting(0, "Longer documents are left out; 0 keeps them.", ge=0)
    min_letters: float = setting(
        0.0, "Documents with a smaller share of letters, spaces not counted, are left out.", ge=0, le=1
    )
    exact_duplicates: bool = setting(False, "Whether a document that is the same as an earlier one is left out.")
    near_duplicates: float = setting(
        0.0,
        "So is one whose runs of five words are this similar (Jaccard) to an earlier one's, such as 0.8; 0 is off.",
        ge=0,
        le=1,
    )


@_config
class PretrainConfig:
    """Next-token training on documents, packed without attention across them."""

    steps: int = setting(900, "Optimizer steps.", ge=1)
    batch_tokens: int = setting(4096, "Tokens in one optimizer step.", ge=16)
    sequence_length: int = setting(128, "Tokens in one packed row.", ge=8)
    micro_batch_tokens: int = setting(
        0,
        "Tokens in one forward and backward pass, whose gradients add up to a step's; 0 takes the step at once.",
        ge=0,
    )
    cleaning: CleaningConfig = section(CleaningConfig)
    validation_share: float = setting(0.02, "Share of documents held out for the validation loss.", ge=0, lt=1)
    optim: OptimConfig = section(OptimConfig)


@_config
class SftConfig:
    """Supervised fine-tuning on demonstrations; only completion tokens count."""

    epochs: int = setting(1, "Passes over the demonstrations.", ge=1)
    batch_size: int = setting(64, "Demonstrations in one optimizer step.", ge=1)
    mixture: str = setting(
        "", "Passes over each of inputs.demonstrations in an epoch, separated by commas (1, 0.25); empty is 1 of each."
    )
    turns: str = setting(
        "last",
        "Assistant turns of a conversation that are learned; all makes of each an example with what stands before it.",
        choices=("last", "all"),
    )
    validation_share: float = setting(0.05, "Share of prompts held out for the validation loss.", ge=0, lt=1)
    optim: OptimConfig = section(OptimConfig)


@_config
class RewardModelConfig:
    """K-wise reward model from the SFT policy (InstructGPT, arXiv:2203.02155)."""

    epochs: int = setting(1, "Passes over the rankings.", ge=1)
    min_steps: int = setting(
        0, "Optimizer steps that few rankings are read again for, past epochs; each member counts alone.", ge=0
    )
    batch_size: int = setting(
        16, "Rankings in one optimizer step; all comparisons of a ranking stand in one batch element.", ge=1
    )
    validation_share: float = setting(0.1, "Share of prompt groups held out for the accuracy shown.", ge=0, lt=1)
    lm_coef: float = setting(
        0.0, "Weight of a language-model loss on the better completions beside the ranking loss.", ge=0
    )
    members: int = setting(
        1, "Reward models in the ensemble, each from its own seed; scores are their mean.", ge=1, le=16
    )
    normalise_prompts: int = setting(
        256, "Prompts whose samples by the reference set the score's mean 0 and deviation 1.", ge=2
    )
    normalise_new_tokens: int = setting(
        0, "Longest of those samples, tokens; 0 is ppo.max_new_tokens. They are drawn at ppo.temperature.", ge=0
    )
    guard_min_accuracy: float = setting(
        0.0,
        "Stops the run where fewer than this share of 100 or more held-out comparisons are right; 0.5 is chance.",
        ge=0,
        lt=1,
    )
    optim: OptimConfig = section(OptimConfig)


@_config
class PpoConfig:
    """PPO against the reward model (arXiv:1707.06347 with the details of arXiv:2403.17031)."""

    scorer: str = setting("", "A registered Python scorer in place of the reward model; empty takes the reward model.")
    iterations: int = setting(40, "Rollouts, each followed by ppo_epochs of updates.", ge=1)
    batch_size: int = setting(128, "Completions in a rollout.", ge=1)
    minibatch_size: int = setting(32, "Completions in one optimizer step.", ge=1)
    micro_batch_size: int = setting(
        0,
        "Completions in one forward and backward pass of a step; 0 takes all on a GPU, and few at a time on a CPU.",
        ge=0,
    )
    samples_per_prompt: int = setting(1, "Completions of each prompt in a rollout.", ge=1)
    ppo_epochs: int = setting(2, "Passes over each rollout.", ge=1)
    temperature: float = setting(1.0, "Of rollouts, the reference's log-probs and the update alike.", gt=0, le=10)
    max_new_tokens: int = setting(72, "Longest completion, tokens.", ge=1)
    kl_coef: float = setting(0.05, "Weight of the per-token KL penalty (k1) in the reward; nats.", ge=0)
    kl_target: float = setting(
        0.0, "KL per completion, nats, that an adaptive kl_coef steers to; 0 keeps it fixed.", ge=0
    )
    kl_horizon: int = setting(10000, "Episodes over which the adaptive kl_coef moves.", ge=1)
    gamma: float = setting(1.0, "Discount.", gt=0, le=1)
    gae_lambda: float = setting(0.95, "Lambda of generalised advantage estimation.", ge=0, le=1)
    clip_range: float = setting(0.2, "Policy ratio is clipped to 1 plus or minus this.", gt=0, lt=1)
    value_clip_range: float = setting(
        0.2, "Values are clipped to the old ones plus or minus this; 0 does not clip.", ge=0
    )
    value_coef: float = setting(0.1, "Weight of the value loss.", ge=0)
    value_network: str = setting(
        "separate",
        "separate starts from the reward model; shared is a head on the policy's trunk, started at zero.",
        choices=("separate", "shared"),
    )
    value_warmup_iterations: int = setting(0, "First iterations that train only the value network.", ge=0)
    entropy_coef: float = setting(0.0, "Weight of an entropy bonus.", ge=0)
    whiten_rewards: bool = setting(False, "Whether rewards are scaled by their deviation, the mean kept.")
    missing_eos_score: float = setting(-3.0, "Score of a completion that did not end by itself.")
    logprobs: str = setting(
        "recomputed",
        "captured keeps the sampler's log-probs as old_logprobs; recomputed asks the policy again.",
        choices=("captured", "recomputed"),
    )
    score_clip: float = setting(0.0, "Scores are clipped to plus or minus this; 0 does not clip.", ge=0)
    uncertainty_coef: float = setting(0.0, "Subtracts this many deviations of an ensemble from its mean score.", ge=0)
    sample_prompts: int = setting(
        8, "Prompts whose completions are written beside the reference's as the run goes.", ge=0
    )
    sample_every_iterations: int = setting(5, "Iterations between such samples.", ge=1)
    guard_max_kl: float = setting(40.0, "Stops the run when the mean KL per completion passes this, nats.", gt=0)
    guard_min_kl: float = setting(
        -2.0, "Stops the run when the mean KL per completion (k1) falls below this, nats.", le=0
    )
    guard_min_score_deviation: float = setting(
        1e-3, "Stops the run when the deviation of the scores in a rollout falls below this.", ge=0
    )
    guard_min_entropy: float = setting(
        0.02, "Stops the run when the mean entropy per token falls below this, nats.", ge=0
    )
    guard_max_logprob_gap: float = setting(
        0.1, "Stops the run when sampler and update differ by more than this in a token's log-prob, nats, mean.", gt=0
    )
    guard_min_eos_rate: float = setting(
        0.05, "Stops the run when fewer completions than this share end by themselves.", ge=0, le=1
    )
    guard_min_length: float = setting(
        1.5, "Stops the run when completions are shorter than this on average, tokens, the stop token included.", ge=0
    )
    guard_max_clip_fraction: float = setting(
        0.8, "Stops the run when more than this share of tokens is past the clip, mean over updates.", gt=0, le=1
    )
    guard_min_explained_variance: float = setting(
        -100.0, "Stops the run when the values explain less than this of the returns' variance.", le=0
    )
    guard_patience: int = setting(5, "Iterations in a row that a sick reading must last.", ge=1)
    optim: OptimConfig = section(OptimConfig)
    value_learning_rate: float = setting(
        0.0, "Peak learning rate of a separate value network; 0 takes the policy's.", ge=0, le=1
    )


@_config
class GenerateConfig:
    """Completions of a policy for a file of prompts."""

    samples_per_prompt: int = setting(4, "Completions of each prompt.", ge=1, le=1024)
    pool: str = setting("", "Only prompts of this pool; empty takes all.")
    limit: int = setting(0, "At most this many prompts; 0 takes all.", ge=0)
    stop_strings: tuple = setting(
        (), "Texts that end a completion; what stands from the first of them on is left out of its text."
    )
    sampling: SamplingConfig = section(SamplingConfig)


@_config
class EvaluateConfig:
    """Perplexity, the scorer on rankings, and the policy against the reference, on what nothing was trained on."""

    prompts: int = setting(256, "Prompts; 0 takes all.", ge=0)
    pool: str = setting("eval", "Only prompts of this pool; empty takes all.")
    scorer: str = setting("", "A registered Python scorer in place of the reward model; empty takes the reward model.")
    perplexity_tokens: int = setting(262144, "Most tokens that perplexity is measured on; 0 takes all.", ge=0)
    best_of: int = setting(0, "Also the best of n of the reference under the reward model; 0 does not.", ge=0, le=1024)
    sampling: SamplingConfig = section(SamplingConfig)


@_config
class Config:
    """Every section."""

    run: RunConfig = section(RunConfig)
    inputs: InputsConfig = section(InputsConfig)
    model: ModelConfig = section(ModelConfig)
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    lora: LoraConfig = section(LoraConfig)
    pretrain: PretrainConfig = section(PretrainConfig)
    sft: SftConfig = section(SftConfig)
    reward_model: RewardModelConfig = section(RewardModelConfig)
    ppo: PpoConfig = section(PpoConfig)
    generate: GenerateConfig = section(GenerateConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
