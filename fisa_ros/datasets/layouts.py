"""How published data sets lie on disk: the files of each and what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import listed


@dataclass(frozen=True, slots=True)
class Layout:
    """One form in which a data set is found; `{split}` in a path is the form's own word for the split.

    Attributes:
        folders: Where it may lie below the root that a user gives, which may also be this folder itself.
        splits: The form's word for 'train' and 'val'.
        images: Folder of the images.
        maps: Folder of the maps.
        image_suffix: End of an image's name, where the maps say themselves what is in them.
        map_suffix: End of a map's name, likewise.
        panoptic_json: The annotations; empty where the maps say themselves what is in them.
        first_value: Value of the first category in maps of classes; None where the maps have instances.
        void_value: Value of what has no category in such maps.
        has_other_images: Whether the folder of images also holds those of other splits.
        may_hide_segments: See `PanopticDataset`.
        may_swap_size: See `PanopticDataset`.
    """

    folders: tuple[str, ...]
    splits: Mapping[str, str]
    images: str
    maps: str
    image_suffix: str = '.jpg'
    map_suffix: str = '.png'
    panoptic_json: str = ''
    first_value: int | None = None
    void_value: int = 0
    has_other_images: bool = False
    may_hide_segments: bool = False
    may_swap_size: bool = False

    @property
    def has_instances(self) -> bool:
        """Whether segments of one class are told apart."""
        return self.first_value is None

    def parts(self, split: str) -> dict[str, str]:
        """Return the paths of a split below the folder: `images`, `maps` and perhaps `panoptic_json`."""
        word = self.splits[split]
        paths = {'images': self.images, 'maps': self.maps, 'panoptic_json': self.panoptic_json}
        return {key: path.format(split=word) for key, path in paths.items() if path}


@dataclass(frozen=True, slots=True)
class FoundLayout:
    """A layout, where it was found, and the paths of its parts."""

    layout: Layout
    images: Path
    maps: Path
    panoptic_json: Path | None


_LONG = {'train': 'training', 'val': 'validation'}
_SHORT = {'train': 'train', 'val': 'val'}
_COCO = {'train': 'train2017', 'val': 'val2017'}
_ADE = ('ADEChallengeData2016',)
_ADE_FULL = ('ADE20K_2021_17_01', 'ade/ADE20K_2021_17_01')
_VISTAS = ('mapillary_vistas', 'mapillary-vistas')
_VOC = ('VOCdevkit/VOC2010', 'VOC2010')

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    'coco-panoptic': tuple(
        Layout(('coco',), _COCO, '{split}', maps, panoptic_json='annotations/panoptic_{split}.json')
        for maps in ('annotations/panoptic_{split}', 'panoptic_{split}')
    ),
    'ade20k-150': (
        *(
            Layout(
                _ADE, {split: word}, f'images/{word}', f'ade20k_panoptic_{split}',
                panoptic_json=f'ade20k_panoptic_{split}.json',
                # Things are pasted over stuff when these maps are made, and may cover all of it.
                may_hide_segments=True,
            )
            for split, word in _LONG.items()
        ),
        Layout(_ADE, _LONG, 'images/{split}', 'annotations/{split}', first_value=1),
        Layout(_ADE, _LONG, 'images/{split}', 'annotations_detectron2/{split}', first_value=0, void_value=255),
    ),
    'ade20k-847': tuple(
        Layout(
            _ADE_FULL, _LONG, 'images_detectron2/{split}', 'annotations_detectron2/{split}',
            map_suffix=suffix, first_value=0, void_value=65535,
        )
        for suffix in ('.tif', '.png')
    ),
    'cityscapes': (
        Layout(
            ('cityscapes',), _SHORT, 'leftImg8bit/{split}', 'gtFine/cityscapes_panoptic_{split}',
            panoptic_json='gtFine/cityscapes_panoptic_{split}.json',
        ),
        Layout(
            ('cityscapes',), _SHORT, 'leftImg8bit/{split}', 'gtFine/{split}',
            image_suffix='_leftImg8bit.png', map_suffix='_gtFine_instanceIds.png',
        ),
    ),
    'mapillary-vistas': tuple(
        Layout(
            _VISTAS, _LONG, '{split}/images', maps, panoptic_json=f'{maps}/panoptic_2018.json',
            # As published, it has width and height the wrong way round.
            may_swap_size=True,
        )
        for maps in ('{split}/v1.2/panoptic', '{split}/panoptic')
    ),
    'pascal-context-59': (
        Layout(
            ('pascal_ctx_d2',), _LONG, 'images/{split}', 'annotations_ctx59/{split}', first_value=0, void_value=255
        ),
        Layout(('pcontext',), _SHORT, '{split}/image', '{split}/label', first_value=0, void_value=255),
        Layout(
            _VOC, _SHORT, 'JPEGImages', 'annotations_detectron2/pc59_{split}',
            first_value=0, void_value=255, has_other_images=True,
        ),
    ),
    'pascal-context-459': (
        Layout(
            ('pascal_ctx_d2',), _LONG, 'images/{split}', 'annotations_ctx459/{split}',
            map_suffix='.tif', first_value=0, void_value=65535,
        ),
        Layout(
            ('pcontext_full',), _SHORT, '{split}/image', '{split}/label',
            map_suffix='.tif', first_value=0, void_value=65535,
        ),
        Layout(
            _VOC, _SHORT, 'JPEGImages', 'annotations_detectron2/pc459_{split}',
            map_suffix='.tif', first_value=0, void_value=65535, has_other_images=True,
        ),
    ),
}  # fmt: skip
"""By the name of the data set, those that tell more first."""


def find_layout(name: str, root: Path, split: str, *, semantic: bool) -> FoundLayout:
    """Find the first layout of a data set that is below a folder.

    Args:
        name: Of the data set.
        root: Folder that holds the data set, or that holds its folder.
        split: 'train' or 'val'.
        semantic: Whether to look for maps of classes alone, where the data set comes in that form.

    Raises:
        DataError: There is none; the text says what is expected and what was found.
    """
    layouts = [layout for layout in LAYOUTS[name] if split in layout.splits]
    if semantic:
        layouts = [layout for layout in layouts if not layout.has_instances] or layouts
    expected = []
    for layout in layouts:
        parts = layout.parts(split)
        missing_of = {
            base: [path for path in parts.values() if not (base / path).exists()]
            for base in (*(root / folder for folder in layout.folders), root)
        }
        for base, missing in missing_of.items():
            if not missing and (parts.get('panoptic_json') or _has_file(base / parts['maps'], layout.map_suffix)):
                paths = {key: base / path for key, path in parts.items()}
                return FoundLayout(layout, paths['images'], paths['maps'], paths.get('panoptic_json'))
        base, missing = min(missing_of.items(), key=lambda item: len(item[1]))
        text = ', '.join(f'{base / path}{" (missing)" if path in missing else ""}' for path in parts.values())
        if not missing:
            text += f' (without any *{layout.map_suffix})'
        expected.append(text)
    raise DataError(
        f'{root} has no data set {name}, split {split}. Expected '
        + ';\nor '.join(expected)
        + f'.\nFound in {root}: {_content(root)}'
    )


def _has_file(folder: Path, suffix: str) -> bool:
    return next(folder.glob(f'*{suffix}'), None) is not None or next(folder.glob(f'*/*{suffix}'), None) is not None


def _content(folder: Path) -> str:
    try:
        names = sorted(path.name + '/' * path.is_dir() for path in folder.iterdir())
    except OSError as error:
        return f'nothing: {error.strerror}'
    return listed(names) or 'nothing'
