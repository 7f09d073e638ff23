from dataclasses import replace
import hashlib
import shutil
import subprocess

import numpy as np
import pytest
import torch

from fisa_ros.core.manifest import WeightsFile, load_manifest
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.networks.build import build_network
from fisa_ros.networks.weights import save_weights
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.graph_export import export_graphs
from fisa_ros.runtime.torch_backend import TorchBackend

SIZE = 64
GENERATOR = {
    'type': 'tiny', 'image_size': SIZE, 'num_queries': 6, 'channels': [8, 16, 32], 'blocks': [0, 0, 1], 'heads': 2,
    'encoder_blocks': 1, 'query_blocks': 1, 'mask_channels': 8,
}  # fmt: skip
CLASSIFIER = {
    'type': 'tiny', 'image_size': SIZE, 'text_dim': 384, 'width': 32, 'layers': 2, 'heads': 2,
    'stem_channels': [8, 16, 32], 'stem_blocks': [0, 0, 1], 'seve_blocks': 1, 'seve_width': 16, 'merge_size': 32,
    'temperature': 1.3,
}  # fmt: skip
WORDS = 'floor; wall; chair, seat, stool; table; bed, mattress; lamp; door'


def toy_frames(count):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(count)]


@pytest.fixture(scope='session')
def toy_manifest(tmp_path_factory):
    """A model of random weights that sees something in noise, and opens its gates."""
    folder = tmp_path_factory.mktemp('toy')
    torch.manual_seed(1)
    network = build_network(GENERATOR, CLASSIFIER)
    with torch.no_grad():
        for part in network.tower.seve:
            part.gate.fill_(0.5)
        network.head.logit_scale.fill_(4.0)
        network.generator.objectness_head.bias.fill_(1.0)
        # Masks that differ from each other and over the image.
        network.generator.mask_head[-1].weight.mul_(100.0)
        # All embeddings of a random tower look alike; void must not be near them.
        image = torch.from_numpy(toy_frames(1)[0]).permute(2, 0, 1)[None] / 255
        embeddings = network.eval().encode(image, torch.zeros(32, 384), torch.zeros(32, dtype=torch.bool))[1]
        network.head.void_embedding.copy_(-embeddings.mean(0))
    path = folder / 'toy.safetensors'
    save_weights(network, path)
    return replace(
        load_manifest('fisa-tiny'),
        name='toy',
        image_size_hw=(SIZE, SIZE),
        weights=WeightsFile(path, hashlib.sha256(path.read_bytes()).hexdigest()),
        generator=GENERATOR,
        classifier=CLASSIFIER,
    )


@pytest.fixture(scope='session')
def toy_segmenter(toy_manifest):
    segmenter = Segmenter(TorchBackend(toy_manifest, 'cpu'), toy_manifest)
    yield segmenter
    segmenter.close()


@pytest.fixture(scope='session')
def toy_state(toy_segmenter):
    return toy_segmenter.prepare(VocabularyRegistry().propose(VocabularyRequest.parse(WORDS)))


@pytest.fixture(scope='session')
def toy_graphs(toy_manifest, toy_state, tmp_path_factory):
    """Folder of the exported toy; not to be changed."""
    folder = tmp_path_factory.mktemp('graphs') / 'toy'
    export_graphs(toy_manifest, folder, toy_frames(8), toy_state)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where one can be mounted."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', str(folder)]
    if shutil.which('mount') is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip('this user cannot mount a file system')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)
