"""Engine settings, read from TOML (or resolved JSON) and the command line, and checked.

Standard library only, so that the web process may import it. A Config holds the settings of every stage; a stage reads
its own section (sections.py). `load` refuses unknown keys and values outside their range; `resolved` gives the
dictionary that is saved in the run directory, enough to repeat the run.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from pathlib import Path

from training.engine.sections import Config

PRESETS = Path(__file__).resolve().parent.parent / "configs"
MOST = 10**9  # of a whole number; more is a slip of the hand


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or outside its range. The message is one sentence for people."""


def load(source=None, overrides=()):
    """A Config from a TOML file, a resolved JSON file or a preset's name (`tiny`), then `key=value` overrides.

    Raises ConfigError with one sentence that names the key, the value and the rule.
    """
    values = _read(source) if source else {}
    for text in overrides:
        _override(values, text)
    return build(values)


def build(values):
    """A Config from a nested dictionary."""
    config = _build(Config, values, "")
    _check_together(config)
    return config


def resolved(config):
    """The nested dictionary that `build` makes the same Config from, as JSON gives it back (a list for a tuple)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def require_inputs(config, stage, *names):
    """Raises ConfigError if one of the paths that the stage needs is not set."""
    for name in names:
        if not getattr(config.inputs, name):
            raise ConfigError(f"The stage {stage} needs inputs.{name}; set it to a path.")


def fields(cls=Config, prefix=""):
    """Yields (dotted key, default, doc) of every setting, for the docs and their test."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from fields(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.default, field.metadata["doc"]


def presets():
    """Names of the configurations that ship with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _read(source):
    path = Path(source)
    if not path.suffix and (PRESETS / f"{source}.toml").is_file():
        path = PRESETS / f"{source}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The configuration {source} cannot be read ({error.strerror}); "
            f"name a TOML file or one of: {', '.join(presets())}."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"The configuration {source} is not UTF-8 text; save it as UTF-8.") from None
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"The configuration {source} is not valid {path.suffix[1:].upper() or 'TOML'}: {error}."
        ) from None


def _override(values, text):
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not a setting; write it as section.key=value, for example ppo.kl_coef=0.1.")
    *parents, name = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key} cannot be set: {parent} is a value, not a section.")
    values[name] = _parse_value(raw.strip())


def _parse_value(raw):
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _build(cls, values, prefix):
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'The configuration'} must be a section of settings, not {values!r}.")
    types_by_name = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise ConfigError(_unknown(prefix + name, known, prefix))
    made = {}
    for name, value in values.items():
        key = prefix + name
        kind = types_by_name[name]
        if dataclasses.is_dataclass(kind):
            made[name] = _build(kind, value, f"{key}.")
        else:
            made[name] = _checked(key, _typed(key, value, kind), known[name].metadata)
    return cls(**made)


def _unknown(key, known, prefix):
    name = key.removeprefix(prefix)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known here: {', '.join(sorted(known))}."
    return f"The setting {key} does not exist; {hint}"


def _typed(key, value, kind):
    assert not isinstance(kind, types.UnionType), "settings have one plain type"
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if kind is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
            raise ConfigError(f"{key}={value!r} must be a list of texts, none of them empty.")
        return tuple(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ConfigError(f"{key}={value!r} must be {words[kind]}.")
    return value


_RULES = (
    ("ge", lambda value, bound: value >= bound, "at least"),
    ("gt", lambda value, bound: value > bound, "greater than"),
    ("le", lambda value, bound: value <= bound, "at most"),
    ("lt", lambda value, bound: value < bound, "less than"),
)


def _checked(key, value, rules):
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value} must be a finite number.")
    if type(value) is int and rules["le"] is None and rules["lt"] is None:
        rules = {**rules, "le": MOST}
    for rule, holds, words in _RULES:
        bound = rules[rule]
        if bound is not None and not holds(value, bound):
            raise ConfigError(f"{key}={value} must be {words} {bound}.")
    if rules["choices"] and value not in rules["choices"]:
        raise ConfigError(f"{key}={value!r} must be one of: {', '.join(rules['choices'])}.")
    return value


def _check_together(config):
    _check_multiple("ppo.batch_size", config.ppo.batch_size, "ppo.minibatch_size", config.ppo.minibatch_size)
    _check_multiple("ppo.batch_size", config.ppo.batch_size, "ppo.samples_per_prompt", config.ppo.samples_per_prompt)
    if config.ppo.kl_target and not config.ppo.kl_coef:
        raise ConfigError(
            f"ppo.kl_target={config.ppo.kl_target} steers ppo.kl_coef by multiplying it, and 0 stays 0; set a first "
            "ppo.kl_coef, such as 0.05, or ppo.kl_target=0."
        )
    if config.ppo.value_learning_rate and config.ppo.value_network == "shared":
        raise ConfigError(
            f"ppo.value_learning_rate={config.ppo.value_learning_rate} is that of a separate value network, and "
            "ppo.value_network=shared has none; set ppo.value_learning_rate=0."
        )
    _check_multiple("model.hidden_size", config.model.hidden_size, "model.n_heads", config.model.n_heads)
    _check_multiple("model.n_heads", config.model.n_heads, "model.n_kv_heads", config.model.n_kv_heads)
    head_size = config.model.hidden_size // config.model.n_heads
    if head_size % 2:
        raise ConfigError(
            f"model.hidden_size={config.model.hidden_size} over model.n_heads={config.model.n_heads} gives heads of "
            f"{head_size}; rotary embeddings need an even size."
        )


def _check_multiple(key, value, divisor_key, divisor):
    if value % divisor:
        below = value // divisor * divisor
        nearest = f"nearest below is {below}" if below else f"the least is {divisor}"
        raise ConfigError(f"{key}={value} must be a multiple of {divisor_key}={divisor}; {nearest}.")
