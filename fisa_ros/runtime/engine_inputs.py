"""Names, dtypes and shapes of the engines of one model."""

from fisa_ros.core.class_names import MAX_NAMES
from fisa_ros.core.errors import EngineError
from fisa_ros.runtime.engine_key import InputProfile, OutputSpec
from fisa_ros.runtime.graph_files import GraphsDescription

# Scratch memory is reserved for the largest shapes: N x K x S float32 are 26 MB for 100 masks.
MAX_CLASSES = 8192
_TYPICAL_CLASSES, _TYPICAL_SYNONYMS = 64, 2

ENCODER_OUTPUT_SPECS = (
    OutputSpec('mask_logits', 'float32'),
    OutputSpec('mask_embeddings', 'float32'),
    OutputSpec('objectness', 'float32'),
)
HEAD_OUTPUT_SPECS = (
    OutputSpec('query_map', 'int32'),
    OutputSpec('class_index', 'int64'),
    OutputSpec('score', 'float32'),
)


def encoder_inputs(description: GraphsDescription) -> tuple[InputProfile, ...]:
    """Return the inputs of the encoder, all of fixed shape; those of half-precision graphs are the same."""
    tokens, dim = description.num_semantic_tokens, description.embedding_dim
    return (
        InputProfile.fixed('image', 'uint8', (*description.image_size_hw, 3)),
        InputProfile.fixed('semantic_tokens', 'float32', (tokens, dim)),
        InputProfile.fixed('token_mask', 'bool', (tokens,)),
    )


def head_inputs(description: GraphsDescription) -> tuple[InputProfile, ...]:
    """Return the inputs of the head; K words of S synonyms vary."""
    masks, dim = description.num_masks, description.embedding_dim
    sizes = [(1, 1), (_TYPICAL_CLASSES, _TYPICAL_SYNONYMS), (MAX_CLASSES, MAX_NAMES)]
    words = [(classes, synonyms, dim) for classes, synonyms in sizes]
    singles = [(classes,) for classes, _ in sizes]
    return (
        InputProfile.fixed('mask_logits', 'float32', (masks, *description.mask_size_hw)),
        InputProfile.fixed('mask_embeddings', 'float32', (masks, dim)),
        InputProfile.fixed('objectness', 'float32', (masks,)),
        InputProfile('text_embeddings', 'float32', *words),
        InputProfile('synonym_mask', 'bool', *sizes),
        InputProfile('is_thing', 'bool', *singles),
        InputProfile.fixed('thresholds', 'float32', (6,)),
    )


def check_vocabulary_size(classes: int, synonyms: int) -> None:
    """Refuse a vocabulary that the head's engine was not built for.

    Raises:
        EngineError: There are more than `MAX_CLASSES` words or more than `MAX_NAMES` names for one.
    """
    if classes > MAX_CLASSES or synonyms > MAX_NAMES:
        raise EngineError(
            f'a TensorRT engine takes at most {MAX_CLASSES} words of {MAX_NAMES} names each, '
            f'got {classes} of up to {synonyms}; use fewer, or another back-end'
        )
