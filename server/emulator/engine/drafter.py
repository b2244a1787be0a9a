"""The shape of a drafter that has weights, from which its cost is computed as for any other model.

- `draft_model` names a preset of server/models or a .yaml file. As in vLLM, its vocabulary must have the size of the target's.
- `eagle3` is one decoder layer as wide as the target's, whose attention reads twice that width; three hidden states of the
  target are projected to one; it predicts 32,000 tokens, as the published heads do (draft_vocab_size).
- `mtp` is one decoder layer of the target after a projection of two hidden states to one, with the target's output layer.

Rules: a `model` that is a preset or a .yaml file replaces the derived shape. Weights of a derived drafter have 16 bits. A step runs
the drafter once over all its tokens and k − 1 times over one token of each stream. This module does not know how long
anything takes (step_time.py), how much is accepted (acceptance.py), or whether such a drafter was ever trained.
"""

from dataclasses import replace

from server.config import ConfigError, Model, Serving, load_model, model_file
from server.speculation import Drafter

EAGLE_VOCABULARY = 32_000


def drafter_of(serving: Serving, target: Model) -> tuple[Model, Serving] | None:
    """The drafter and how it is served; None for a method without weights. Raises ConfigError."""
    settings = serving.speculation
    if not isinstance(settings, Drafter):
        return None
    tp = settings.draft_tensor_parallel_size or serving.tensor_parallel_size
    if tp not in (1, serving.tensor_parallel_size):
        raise ConfigError(
            f"{serving.name}: speculative-config.draft_tensor_parallel_size: must be 1 or "
            f"{serving.tensor_parallel_size}, as in vLLM, not {tp}"
        )
    named = settings.model if settings.model and model_file(settings.model) else None
    if named is None and settings.method == "draft_model":
        raise ConfigError(
            f"{serving.name}: speculative-config.model: {settings.model!r} has no preset: name one of server/models, "
            "its model id, or a .yaml file with the shape of the draft model"
        )
    model = load_model(named) if named else _head(settings.method, target)
    if settings.method == "draft_model" and model.shape.vocab_size != target.shape.vocab_size:
        raise ConfigError(
            f"{serving.name}: speculative-config.model: {model.name} has {model.shape.vocab_size} tokens and {target.name} "
            f"{target.shape.vocab_size}: vLLM needs equal vocabularies"
        )
    return model, replace(serving, tensor_parallel_size=tp, speculation=None)


def _head(method: str, target: Model) -> Model:
    """A head for the target, derived from the target's shape."""
    shape = target.shape
    hidden = shape.hidden_size
    read = hidden * shape.head_dim * (shape.num_attention_heads + 2 * shape.num_key_value_heads)
    eagle = method == "eagle3"
    extra = 3 * hidden * hidden + read if eagle else 2 * hidden * hidden
    vocabulary = min(EAGLE_VOCABULARY, shape.vocab_size) if eagle else shape.vocab_size
    head = replace(
        shape,
        num_hidden_layers=1,
        vocab_size=vocabulary,
        extra_parameters=extra,
        tie_word_embeddings=True,  # the input embedding is the target's
    )
    return replace(target, name=f"{method} head of {target.name}", weight_bytes=2.0, shape=head)
