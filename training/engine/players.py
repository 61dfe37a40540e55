"""The networks of a PPO run, and what they do together."""

import copy
from dataclasses import dataclass

from training.engine import checkpoint, lora, rollout, sampling, scorer
from training.engine.config import ConfigError, require_inputs
from training.engine.distributed import Compute
from training.engine.heads import RewardModel, ScalarHead
from training.engine.rollout import derive_seed
from training.engine.tokenizer import Tokenizer
from training.engine.transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """The networks of a run, and where they compute."""

    compute: Compute
    policy: Transformer
    ref_policy: Transformer  # never trained
    value_network: RewardModel | None  # None where the value head stands on the policy's trunk
    value_head: ScalarHead | None  # on the policy's trunk, or None
    scorer: scorer.Scorer
    tokenizer: Tokenizer

    def trained(self):
        """{name: module} of what updates change."""
        named = {"policy": self.policy, "value_network": self.value_network, "value_head": self.value_head}
        return {name: module for name, module in named.items() if module is not None}

    def draw(self, policy, prompts, settings, *, seed, copies=1):
        """Samples of a policy, `copies` of each prompt standing together, each cut at its first stop token.

        Each rank draws for its share of the prompts, and all of them get all samples.
        The whole distribution is drawn from: top-k, top-p and the like would make the KL estimate negative.
        """
        stop_ids = self.tokenizer.stop_ids
        with self.compute.autocast():
            samples = sampling.generate(
                policy,
                [prompt.token_ids for prompt in prompts],
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                stop_token_ids=stop_ids,
                samples_per_prompt=copies,
                seed=seed,
                only=self.compute.share(range(len(prompts))),
            )
        samples = [rollout.cut_at_stop(sample, stop_ids) for sample in samples]
        groups = [samples[start : start + copies] for start in range(0, len(samples), copies)]
        return [sample for group in self.compute.gather(groups, len(prompts)) for sample in group]

    def score(self, prompts, samples):
        """Scores of the samples; each rank scores its share."""
        conversations = scorer.conversations(prompts, samples, self.tokenizer)
        with self.compute.autocast():
            scores = self.scorer.score(self.compute.share(conversations))
        return scorer.Scores(*(None if x is None else self.compute.merge(x, len(samples)) for x in scores))

    def values(self, trajectories, hidden):
        """(B, T) values; hidden (A, D) are the policy's, which a head on its trunk reads."""
        if self.value_network is None:
            return trajectories.spread(self.value_head(hidden).float())
        flat = self.value_network.values_packed(trajectories.tokens, trajectories.layout, trajectories.decisions)
        return trajectories.spread(flat)


def make_players(config):
    """The networks, loaded. A value network of its own starts as the reward model (the first member of an ensemble), a
    head on the policy's trunk at zero."""
    inputs = config.inputs
    require_inputs(config, "ppo", "policy", "prompts")
    if not config.ppo.scorer:
        require_inputs(config, "ppo", "reward_model")
    compute = Compute(config.run)
    compute.require_rows("ppo.minibatch_size", config.ppo.minibatch_size)
    device = compute.device
    policy = checkpoint.load_policy(inputs.policy, device=device)
    tokenizer = checkpoint.load_tokenizer_of(inputs.policy)
    ref_policy = compute.freeze(load_reference(config, policy))
    if ref_policy.config.vocab_size != policy.config.vocab_size:
        raise ConfigError(
            f"inputs.ref_policy has {ref_policy.config.vocab_size} tokens and inputs.policy has "
            f"{policy.config.vocab_size}; the KL penalty needs one vocabulary: name the SFT policy it comes from."
        )
    if config.ppo.scorer:
        judge = scorer.named("ppo.scorer", config.ppo.scorer)
    else:
        judge = scorer.load(inputs.reward_model, policy_path=inputs.policy, device=device)
    if config.ppo.uncertainty_coef and not scorer.has_doubt(judge):
        raise ConfigError(
            f"ppo.uncertainty_coef={config.ppo.uncertainty_coef} subtracts the deviation among an ensemble's members, "
            "and there is one only; train it with reward_model.members=3, say, or set ppo.uncertainty_coef=0."
        )
    value_network = value_head = None
    if config.ppo.value_network == "shared":
        value_head = ScalarHead(policy.config.hidden_size, zero=True).to(device)
    elif config.ppo.scorer:
        raise ConfigError(
            "A Python scorer is no network that a value network could start from; set ppo.value_network=shared."
        )
    elif judge.tokenizer is not None:
        raise ConfigError(
            "The reward model's tokenizer is not the policy's, so no value network can start from it; "
            "set ppo.value_network=shared."
        )
    else:
        value_network = value_network_from(judge.members[0], config)
    if not config.ppo.scorer:
        judge.members = [compute.freeze(member) for member in judge.members]
    lora.attach(policy, config.lora, base=inputs.policy, seed=config.run.seed)
    return Players(
        compute=compute,
        policy=policy,
        ref_policy=ref_policy,
        value_network=value_network,
        value_head=value_head,
        scorer=judge,
        tokenizer=tokenizer,
    )


def load_reference(config, policy):
    """The KL reference. Under an adapter, where both start as one checkpoint, it is the same network without it."""
    mine, reference = config.inputs.policy, config.inputs.ref_policy or config.inputs.policy
    if config.lora.rank and (mine == reference or checkpoint.digest(mine) == checkpoint.digest(reference)):
        return lora.shared_copy(policy)
    return checkpoint.load_policy(reference, device=policy.device)


def value_network_from(reward_model, config):
    """A network of its own; under an adapter it shares the frozen weights with the scorer."""
    if not config.lora.rank:
        return copy.deepcopy(reward_model)
    seed = derive_seed(config.run.seed, "value")
    return lora.attach(lora.shared_copy(reward_model), config.lora, base=config.inputs.reward_model, seed=seed)
