from dataclasses import replace
import shutil

import cv2
import numpy as np
import pytest
import torch

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.placement import STRETCH
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.networks.build import build_generator, open_clip_tower, pooled_tower
from fisa_ros.runtime import crop_export, crop_files
from fisa_ros.runtime.crop_pipeline import CropPipeline, open_crop_pipeline

from .conftest import SIZE, toy_frames

THRESHOLDS = Thresholds(score=0.0, mask=0.3, overlap=0.2)


@pytest.fixture(scope='module')
def crop_graphs(toy_graphs, toy_manifest, tmp_path_factory):
    """Folder of the exported toy with its crop graphs; not to be changed."""
    folder = tmp_path_factory.mktemp('crops') / 'toy'
    shutil.copytree(toy_graphs, folder)
    open_crop_pipeline(toy_manifest, folder=folder, batch=1).close()
    return folder


@pytest.fixture(scope='module')
def pipeline(toy_manifest, crop_graphs):
    pipeline = CropPipeline(toy_manifest, crop_graphs, batch=4)
    yield pipeline
    pipeline.close()


def own_embeddings(toy_segmenter, crops):
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return toy_segmenter.backend._network.tower.image_embedding(pixels).numpy()


def replaced_masks(pipeline, monkeypatch, mask_logits, objectness):
    """Let the generator answer with given masks."""

    class Generator:
        def run(self, outputs, inputs):
            return [mask_logits.copy(), objectness.copy()]

    monkeypatch.setattr(pipeline, '_generator', Generator())


def test_a_frame_is_segmented(pipeline, toy_state):
    labelled = 0
    for frame in toy_frames(3):
        raw = pipeline.segment(frame, toy_state, THRESHOLDS)
        assert raw.query_map.shape == (32, 32)
        assert np.issubdtype(raw.query_map.dtype, np.signedinteger)
        assert raw.class_index.dtype == np.int64
        assert raw.score.dtype == np.float32
        assert 0 <= raw.query_map.min() <= raw.query_map.max() <= len(raw.score) == 6
        used = np.unique(raw.query_map[raw.query_map > 0]) - 1
        assert ((raw.class_index[used] >= 0) & (raw.class_index[used] < len(toy_state.is_thing))).all()
        assert ((raw.score[used] >= 0) & (raw.score[used] <= 1)).all()
        labelled += len(used)
    assert labelled, 'nothing was segmented'


def test_masks_are_merged_as_the_model_merges_them(pipeline, toy_segmenter, toy_state):
    """Only where the embeddings come from may differ."""
    backend = toy_segmenter.backend
    frame = toy_frames(1)[0]
    proposed = backend.propose_masks(frame)
    crops, crop_of_mask = pipeline_crops(frame, proposed.mask_logits)
    embeddings = own_embeddings(toy_segmenter, crops)[crop_of_mask]
    expected = backend.merge_masks(proposed, embeddings, toy_state, THRESHOLDS)
    raw = pipeline.segment(frame, toy_state, THRESHOLDS)
    np.testing.assert_array_equal(raw.query_map, expected.query_map)
    used = np.unique(raw.query_map[raw.query_map > 0]) - 1
    assert len(used)
    np.testing.assert_array_equal(raw.class_index[used], expected.class_index[used])
    np.testing.assert_allclose(raw.score[used], expected.score[used], atol=1e-3)


def pipeline_crops(frame, mask_logits):
    from fisa_ros.runtime.crop_pipeline import CONTEXT
    from fisa_ros.runtime.mask_crops import mask_crops

    placement = STRETCH.place((SIZE, SIZE), (SIZE, SIZE))
    return mask_crops(
        frame, mask_logits, size_hw=(SIZE, SIZE), mask_threshold=THRESHOLDS.mask, context=CONTEXT, placement=placement
    )


def test_crops_show_nothing_of_the_padding(pipeline, toy_state, monkeypatch):
    """The border of the image has the colour of the padding: it belongs to the image all the same."""
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    frame[: SIZE // 4] = toy_frames(1)[0][: SIZE // 4]
    seen = []
    embed = pipeline.embed_crops
    monkeypatch.setattr(pipeline, 'embed_crops', lambda crops: seen.append(crops) or embed(crops))
    replaced_masks(pipeline, monkeypatch, np.full((6, 16, 16), 8.0, np.float32), np.ones(6, np.float32))
    raw = pipeline.segment(frame, toy_state, THRESHOLDS.placed((0.5, 1.0)))
    expected = cv2.resize(frame[: SIZE // 2], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(seen[0], np.repeat(expected[None], 6, axis=0))
    assert raw.query_map[:16].all()
    assert not raw.query_map[16:].any()


def test_the_crop_of_a_full_mask_has_the_embedding_of_the_image(pipeline, toy_segmenter):
    frame = toy_frames(1)[0]
    crops, _ = pipeline_crops(frame, np.full((1, 16, 16), 8.0, np.float32))
    expected = own_embeddings(toy_segmenter, frame[None])
    np.testing.assert_allclose(pipeline.embed_crops(crops), expected, atol=1e-4)
    visual = toy_segmenter.backend._network.tower.visual
    pixels = torch.from_numpy(frame[None]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        plain = torch.nn.functional.normalize(visual((pixels - 0.5) / 0.25), dim=-1).numpy()
    np.testing.assert_allclose(pipeline.embed_crops(crops), plain, atol=1e-4)


def test_embeddings_do_not_depend_on_the_batch(pipeline):
    crops = np.stack(toy_frames(7))
    expected = np.concatenate(pipeline._embed_in_batches(crops, 1))
    assert expected.shape == (7, 384)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    for batch in (2, 3, 7, 16):
        np.testing.assert_allclose(np.concatenate(pipeline._embed_in_batches(crops, batch)), expected, atol=1e-5)


def test_only_empty_masks_see_the_whole_image(pipeline, toy_state, toy_segmenter, monkeypatch):
    """An empty mask has no pixels, and must not break the frame."""
    logits = np.full((6, 16, 16), -8.0, np.float32)
    logits[2, 4:10, 4:10] = 8.0
    replaced_masks(pipeline, monkeypatch, logits, np.ones(6, np.float32))
    seen = []
    embed = pipeline.embed_crops
    monkeypatch.setattr(pipeline, 'embed_crops', lambda crops: seen.append(crops) or embed(crops))
    frame = toy_frames(1)[0]
    raw = pipeline.segment(frame, toy_state, THRESHOLDS)
    (crops,) = seen
    assert len(crops) == 2
    np.testing.assert_array_equal(crops[1], frame)
    assert set(np.unique(raw.query_map)) <= {0, 3}


def test_the_pipeline_says_what_it_is(pipeline):
    assert (pipeline.name, pipeline.device, pipeline.image_size_hw) == ('crops', 'cpu', (SIZE, SIZE))
    assert (pipeline.embedding_dim, pipeline.num_semantic_tokens, pipeline.batch) == (384, 32, 4)
    assert pipeline.encode_text(['a chair']).shape == (1, 384)


def test_the_batch_is_measured_unless_given(toy_manifest, crop_graphs):
    pipeline = CropPipeline(toy_manifest, crop_graphs, threads=1)
    pipeline.close()
    assert pipeline.batch in (1, 2, 4, 6)
    with pytest.raises(ValueError, match='batch must be at least 1, got 0'):
        CropPipeline(toy_manifest, crop_graphs, batch=0)


def test_graphs_are_exported_once(toy_manifest, crop_graphs, monkeypatch):
    before = (crop_graphs / 'crops' / crop_files.CLIP_IMAGE_FILE).stat()

    def refuse(*_):
        raise AssertionError('exported again')

    monkeypatch.setattr(crop_export, 'export_crop_graphs', refuse)
    open_crop_pipeline(toy_manifest, folder=crop_graphs, batch=1).close()
    assert (crop_graphs / 'crops' / crop_files.CLIP_IMAGE_FILE).stat().st_ino == before.st_ino


@pytest.mark.slow
def test_smaller_crops_have_graphs_of_their_own(toy_manifest, crop_graphs, toy_state):
    pipeline = open_crop_pipeline(toy_manifest, folder=crop_graphs, batch=2, crop_size=32)
    assert pipeline.crop_size_hw == (32, 32)
    raw = pipeline.segment(toy_frames(1)[0], toy_state, THRESHOLDS)
    pipeline.close()
    assert raw.query_map.shape == (32, 32)
    assert (crop_graphs / 'crops').is_dir()
    assert (crop_graphs / 'crops_32').is_dir()


def test_missing_crop_graphs_are_named(toy_manifest, toy_graphs):
    with pytest.raises(GraphsError, match="model 'toy' has no crop graphs in"):
        CropPipeline(toy_manifest, toy_graphs, batch=1)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda folder: (folder / 'clip_image.onnx').write_bytes(b''), r'clip_image\.onnx is missing or damaged'),
        (lambda folder: (folder / 'generator.onnx').unlink(), r'generator\.onnx is missing or damaged'),
        (lambda folder: (folder / 'graphs.json').write_text('{"format": 0}'), 'not of format 2'),
        (lambda folder: (folder / 'graphs.json').write_text('{"format": 2}'), r'graphs\.json cannot be read'),
        (lambda folder: (folder / 'graphs.json').write_text('['), r'graphs\.json cannot be read'),
        (lambda folder: (folder / 'graphs.json').write_text('[]'), r'graphs\.json cannot be read'),
    ],
)
def test_damaged_crop_graphs_are_refused(toy_manifest, crop_graphs, tmp_path, change, message):
    folder = tmp_path / 'crops'
    shutil.copytree(crop_graphs / 'crops', folder)
    change(folder)
    with pytest.raises(GraphsError, match=message):
        crop_files.open_crop_graphs(folder, toy_manifest)


def test_crop_graphs_of_other_weights_are_refused(toy_manifest, crop_graphs):
    other = replace(toy_manifest, weights=replace(toy_manifest.weights, sha256='0' * 64))
    with pytest.raises(GraphsError, match="were exported from another 'toy'"):
        crop_files.open_crop_graphs(crop_graphs / 'crops', other)


def test_an_export_that_fails_leaves_what_was_there(toy_manifest, crop_graphs, tmp_path, monkeypatch):
    folder = tmp_path / 'crops'
    shutil.copytree(crop_graphs / 'crops', folder)
    before = crop_files.open_crop_graphs(folder, toy_manifest)

    def fail(*_):
        raise GraphsError('no')

    monkeypatch.setattr(crop_export, 'export_graph', fail)
    with pytest.raises(GraphsError, match='no'):
        crop_export.export_crop_graphs(toy_manifest, folder)
    assert crop_files.open_crop_graphs(folder, toy_manifest) == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize('size', [0, -16, 40])
def test_sizes_that_patches_do_not_fill_are_refused(toy_segmenter, size):
    with pytest.raises(GraphsError, match=f'positive multiple of 16 pixels, got {size}'):
        crop_export.tower_for_size(toy_segmenter.backend._network.tower, size)


def test_positions_stay_what_they_are_at_the_same_size(toy_segmenter):
    tower = toy_segmenter.backend._network.tower
    same = crop_export.tower_for_size(tower, SIZE)
    image = torch.from_numpy(toy_frames(1)[0]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        torch.testing.assert_close(same.image_embedding(image), tower.image_embedding(image), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    'make',
    [
        lambda: open_clip_tower(model='ViT-S-32-alt', image_size=64, seve_blocks=1),
        lambda: pooled_tower(model='convnext_tiny', image_size=64),
    ],
    ids=['open_clip', 'pooled'],
)
def test_towers_of_open_clip_are_exported_with_any_number_of_crops(make, tmp_path):
    import onnxruntime

    tower = make().eval().requires_grad_(False)
    rng = np.random.default_rng(1)
    crops = rng.integers(0, 256, (5, 64, 64, 3), np.uint8)
    path = tmp_path / 'clip.onnx'
    crop_export.export_clip_image(tower, path, (64, 64))
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    with torch.inference_mode():
        expected = tower.image_embedding(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255).numpy()
    for count in (1, 5):
        (embeddings,) = session.run(crop_files.CLIP_IMAGE_OUTPUTS, {'crops': crops[:count]})
        np.testing.assert_allclose(embeddings, expected[:count], atol=1e-4)


@pytest.mark.slow
def test_the_generator_of_eomt_is_exported(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    generator = build_generator(
        {
            'type': 'eomt',
            'config': {
                'image_size': 64, 'patch_size': 16, 'hidden_size': 32, 'num_hidden_layers': 3,
                'num_attention_heads': 2, 'num_blocks': 1, 'num_queries': 6, 'num_labels': 3, 'num_register_tokens': 1,
            },
        }
    ).eval().requires_grad_(False)  # fmt: skip
    path = tmp_path / 'generator.onnx'
    crop_export.export_generator(generator, path, (64, 64))
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for frame in toy_frames(2):
        mask_logits, objectness = session.run(crop_files.GENERATOR_OUTPUTS, {'image': frame})
        with torch.inference_mode():
            expected = generator(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255)
        np.testing.assert_allclose(mask_logits, expected.mask_logits[0], atol=1e-3)
        np.testing.assert_allclose(objectness, expected.objectness[0], atol=1e-4)
