"""Keys, machines and reference outputs that are small enough to follow by hand."""

from dataclasses import replace

import numpy as np

from fisa_ros.runtime.engine_key import BuildOptions, EngineKey, InputProfile, Machine, OutputSpec

MACHINE = Machine(
    tensorrt_version='10.16.1.11',
    parser_version='101601',
    cuda_driver_version=13020,
    cuda_runtime_version=13000,
    gpu_name='Orin (nvgpu)',
    compute_capability=(8, 7),
    multiprocessors=16,
    memory_class_gib=64,
    is_integrated=True,
    l4t_release='# R39 (release), REVISION: 2.0',
    cpu_architecture='aarch64',
)
KEY = EngineKey(
    graph='encoder.onnx',
    onnx_sha256='a' * 64,
    external_data=(('encoder.onnx.data', 'b' * 64),),
    inputs=(InputProfile('words', 'float32', (1, 1, 4), (64, 2, 4), (8192, 8, 4)),),
    outputs=(OutputSpec('score', 'float32'),),
    recipe='fp16',
    options=BuildOptions(),
    machine=MACHINE,
)


def key_number(number):
    return replace(KEY, onnx_sha256=f'{number:064}')


def sample_reference(frames=3, masks=4, classes=3, dim=8, size=6):
    """Reference outputs whose labels cover every pixel; half of the masks reach the score threshold."""
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(frames, masks, dim))
    return {
        'image': rng.integers(0, 256, (frames, 5, 7, 3)).astype(np.uint8),
        'semantic_tokens': rng.normal(size=(2, dim)).astype(np.float32),
        'token_mask': np.array([True, False]),
        'text_embeddings': rng.normal(size=(classes, 2, dim)).astype(np.float32),
        'synonym_mask': np.ones((classes, 2), np.bool_),
        'is_thing': np.array([True, False, True])[:classes],
        'thresholds': np.array([0.25, 0.5, 0.5, 0.5, 1.0, 1.0], np.float32),
        'mask_logits': rng.normal(size=(frames, masks, size, size)).astype(np.float32),
        'mask_embeddings': (embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)).astype(np.float32),
        'objectness': rng.random((frames, masks)).astype(np.float32),
        'query_map': rng.integers(0, masks + 1, (frames, 10, 10)).astype(np.int32),
        'class_index': rng.permuted(np.tile(np.arange(masks) % classes, (frames, 1)), axis=1),
        'score': np.tile(np.linspace(0.1, 0.9, masks, dtype=np.float32), (frames, 1)),
    }
