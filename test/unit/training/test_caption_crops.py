from itertools import islice

import pytest
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.captions import Caption, read_captions
from fisa_ros.training.caption_crops import CaptionedCrops
from fisa_ros.training.clip_stage import crop_patches


@pytest.fixture
def captions(toy_data):
    return read_captions(toy_data / 'annotations' / 'captions_train.json')


def batches(crops, **options):
    return crops.batches(32, 2, 5, **options)


def test_captions_are_of_images_and_of_objects(captions):
    first = captions[0]
    assert [caption.text for caption in first] == ['a room with a chair and a ball', 'a floor', 'a chair', 'a ball']
    assert first[0].box_xyxy is None
    x0, y0, x1, y1 = first[2].box_xyxy
    assert (x1 - x0, y1 - y0) == (16, 16)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[]', 'must hold a mapping'), ('{}', 'KeyError'),
        ('{"annotations": [{"caption": "a"}]}', 'image_id'), ('{', 'read')],
)  # fmt: skip
def test_broken_captions_are_refused(tmp_path, text, message):
    path = tmp_path / 'captions.json'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_captions(path)


def test_images_without_captions_are_left_out(toy_dataset, captions):
    crops = CaptionedCrops(toy_dataset, {4: captions[4]}, 4, 4)
    assert crops.sentences == sorted({caption.text for caption in captions[4]})
    assert all(len(batch.captions) > 0 for batch in islice(crops.batches(48, 2, 1), 4))
    with pytest.raises(DataError, match='no image has a caption'):
        CaptionedCrops(toy_dataset, {}, 4, 4)


def test_a_crop_shows_what_its_caption_says(toy_dataset, captions):
    crops = CaptionedCrops(toy_dataset, captions, 8, 4)
    checked = 0
    for batch in islice(batches(crops), 12):
        assert batch.images.shape == (2, 3, 32, 32)
        assert len(batch.boxes) == len(batch.captions) == len(batch.image_index) == len(batch.order)
        for box, row, image in zip(batch.boxes, batch.captions, batch.image_index, strict=True):
            x0, y0, x1, y1 = (box * 32).round().int().tolist()
            assert 0 <= x0 < x1 <= 32
            assert 0 <= y0 < y1 <= 32
            if crops.sentences[row] == 'a chair':
                green = batch.images[image][1, y0:y1, x0:x1] > 1.5 * batch.images[image][0, y0:y1, x0:x1]
                checked += 1
                assert green.float().mean() > 0.1
    assert checked > 5


def test_batches_depend_on_seed_and_step_alone_and_processes_share_them(toy_dataset, captions):
    crops = CaptionedCrops(toy_dataset, captions, 8, 4)
    first, second = islice(batches(crops), 2)
    again = next(batches(crops, first_step=1))
    assert torch.equal(second.images, again.images)
    assert not torch.equal(first.images, second.images)
    parts = [next(batches(crops, part=part, parts=2)) for part in range(2)]
    assert torch.equal(torch.cat([part.images for part in parts]), first.images)
    assert torch.equal(torch.cat([part.boxes for part in parts]), first.boxes)
    assert torch.equal(torch.cat([part.captions for part in parts]), first.captions)
    with pytest.raises(DataError, match='batch_size must be divisible by 3 parts, got 2'):
        next(batches(crops, parts=3))


def test_patches_are_those_inside_the_box_and_small_boxes_repeat_theirs():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.3, 0.3, 0.31, 0.31], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    order = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    chosen = crop_patches(boxes, order, 4, 4, 8)
    assert sorted(chosen[0].tolist()) == [0, 1, 4, 5, 8, 9, 12, 13]
    assert chosen[1].tolist() == [5] * 8
    assert chosen[2].tolist() == [15] * 8
    assert len(set(chosen[3].tolist())) == 8


def test_rare_captions_are_drawn_more_often(toy_dataset):
    box = (8.0, 8.0, 40.0, 40.0)
    captions = {record.image_id: [Caption('the floor', box)] * 4 for record in toy_dataset.records}
    captions[0] = [*captions[0], Caption('a rare ball', box)]
    crops = CaptionedCrops(toy_dataset, captions, 1, 4)
    rare = crops.sentences.index('a rare ball')
    drawn = [row for batch in islice(crops.batches(16, 2, 1), 150) for row in batch.captions.tolist()]
    # One of six images has it: drawn evenly it would be 1 in 30, by its weight it is about 1 in 11.
    assert 1 / 18 < drawn.count(rare) / len(drawn) < 1 / 7
