"""Recipes: YAML files that say what is trained, on what and for how long."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir
from fisa_ros.training.loop import Phase

STAGES = ('generator', 'classifier')


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one stage trains.

    Attributes:
        stage: One of `STAGES`.
        seed: Of initial weights and batches.
        views: `train` and `validation` counts and the `size` in pixels of the simulated views.
        generator: `type` and arguments of the mask generator.
        phases: Stretches of training.
        classifier: `type` and arguments of the classifier; only for stage classifier.
        text_encoder: `type` and arguments; only for stage classifier.
        prompt_templates: Sentences with one `{}`; only for stage classifier.
    """

    stage: str
    seed: int
    views: dict[str, int]
    generator: dict[str, Any]
    phases: list[Phase]
    classifier: dict[str, Any] | None = None
    text_encoder: dict[str, Any] | None = None
    prompt_templates: list[str] | None = None


def load_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name, or any by the path of its YAML file.

    Raises:
        DataError: It is missing or has unknown, missing or impossible entries.
    """
    folder = share_dir() / 'config' / 'recipes'
    path = Path(name_or_path) if name_or_path.endswith('.yaml') else folder / f'{name_or_path}.yaml'
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        shipped = ', '.join(sorted(entry.stem for entry in folder.glob('*.yaml')))
        raise DataError(f'recipe {name_or_path!r} cannot be read (shipped: {shipped}): {error}') from error
    known = {field.name for field in fields(Recipe)}
    if not isinstance(document, dict) or set(document) - known:
        surplus = sorted(set(document) - known) if isinstance(document, dict) else document
        raise DataError(f'{path}: unknown entries {surplus}, known are {", ".join(sorted(known))}')
    try:
        document['phases'] = [Phase(**phase) for phase in document['phases']]
        recipe = Recipe(**document)
    except (KeyError, TypeError) as error:
        raise DataError(f'{path}: {error}') from error
    if recipe.stage not in STAGES:
        raise DataError(f'{path}: stage must be one of {", ".join(STAGES)}, got {recipe.stage!r}')
    return recipe
