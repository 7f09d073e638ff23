"""Turns a room into a MuJoCo model and remembers which geometry belongs to which instance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.simulation.categories import CATEGORY_BY_NAME, Category
from fisa_ros.simulation.furniture import Part
from fisa_ros.simulation.materials import TEXTURE_SIZE, Material
from fisa_ros.simulation.opengl import mujoco
from fisa_ros.simulation.room import Room

CAMERA_BODY = 'camera'
FIELD_OF_VIEW_DEG = 60.0
_OPTICAL_SIZE_WH = (640, 480)

_GEOM_TYPES = {
    'box': mujoco.mjtGeom.mjGEOM_BOX,
    'cylinder': mujoco.mjtGeom.mjGEOM_CYLINDER,
    'sphere': mujoco.mjtGeom.mjGEOM_SPHERE,
    'ellipsoid': mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    'capsule': mujoco.mjtGeom.mjGEOM_CAPSULE,
}


@dataclass(frozen=True)
class Scene:
    """A compiled room.

    Attributes:
        model: The MuJoCo model.
        geom_instance: `(ngeom,)` uint16, 1-based instance of each geometry. All geometries of one stuff category
            are one instance.
        categories: The category of instance 1, 2, ...
        attributes: The adjectives of instance 1, 2, ...; of fused stuff those that are true of all of it.
        room: What it was made from.
    """

    model: mujoco.MjModel
    geom_instance: NDArray[np.uint16]
    categories: tuple[Category, ...]
    attributes: tuple[tuple[str, ...], ...]
    room: Room


def _half_size(part: Part) -> tuple[float, float, float]:
    x, y, z = part.size
    if part.shape == 'cylinder':
        return x / 2, z / 2, 0.0
    if part.shape == 'capsule':
        return x / 2, max(z - x, 0.01) / 2, 0.0
    if part.shape == 'sphere':
        return x / 2, 0.0, 0.0
    return x / 2, y / 2, z / 2


class _Builder:
    """Adds parts to a specification and keeps the books of instances and textures."""

    def __init__(self) -> None:
        self.spec = mujoco.MjSpec()
        self.spec.compiler.degree = False
        self.spec.compiler.eulerseq = 'XYZ'
        self.textures: list[Material] = []
        self.names: dict[int, str] = {}
        self.instances: list[int] = []
        self.categories: list[Category] = []
        self.attributes: list[tuple[str, ...]] = []
        self.stuff: dict[str, int] = {}

    def instance(self, name: str, attributes: tuple[str, ...] = ()) -> int:
        category = CATEGORY_BY_NAME[name]
        if not category.is_thing and name in self.stuff:
            number = self.stuff[name]
            known = self.attributes[number - 1]
            self.attributes[number - 1] = tuple(attribute for attribute in known if attribute in attributes)
            return number
        self.categories.append(category)
        self.attributes.append(attributes)
        number = len(self.categories)
        if not category.is_thing:
            self.stuff[name] = number
        return number

    def material(self, material: Material) -> str:
        if id(material) not in self.names:
            name = f'm{len(self.textures)}'
            self.spec.add_texture(
                name=name,
                type=mujoco.mjtTexture.mjTEXTURE_2D,
                builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
                width=TEXTURE_SIZE,
                height=TEXTURE_SIZE,
            )
            entry = self.spec.add_material(
                name=name,
                texuniform=True,
                texrepeat=[material.repeat, material.repeat],
                specular=material.shininess,
                shininess=material.shininess,
                emission=material.emission,
            )
            entry.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
            self.names[id(material)] = name
            self.textures.append(material)
        return self.names[id(material)]

    def add(self, body: mujoco.MjsBody, part: Part, instance: int) -> None:
        body.add_geom(
            type=_GEOM_TYPES[part.shape],
            size=_half_size(part),
            pos=part.position,
            euler=part.euler,
            material=self.material(part.material),
            contype=0,
            conaffinity=0,
        )
        self.instances.append(instance)


def _add_shell(builder: _Builder, room: Room) -> None:
    width, depth, height = room.size
    world = builder.spec.worldbody
    turn = np.pi / 2
    thick = 0.1
    # Slabs overlap at the edges: where they only touch, single pixels see through.
    # The texture lies in a geometry's own x-y plane, so every surface is a slab whose z axis is its normal.
    slabs = [
        ('floor', room.floor, (width + thick, depth + thick), (0, 0, -thick / 2), (0, 0, 0)),
        ('ceiling', room.ceiling, (width + thick, depth + thick), (0, 0, height + thick / 2), (0, 0, 0)),
        ('wall', room.wall, (width + 2 * thick, height + thick), (0, (depth + thick) / 2, height / 2), (turn, 0, 0)),
        ('wall', room.wall, (width + 2 * thick, height + thick), (0, -(depth + thick) / 2, height / 2), (turn, 0, 0)),
        ('wall', room.wall, (depth + thick, height + thick), ((width + thick) / 2, 0, height / 2), (turn, 0, turn)),
        ('wall', room.wall, (depth + thick, height + thick), (-(width + thick) / 2, 0, height / 2), (turn, 0, turn)),
    ]
    for name, material, (x, y), position, euler in slabs:
        builder.add(world, Part('box', (x, y, thick), position, material, euler), builder.instance(name))


def build_scene(room: Room, size_wh: tuple[int, int], *, shadows: bool = False) -> Scene:
    """Compile a room.

    Args:
        room: The room.
        size_wh: Size (width, height) in pixels of the images that will be rendered.
        shadows: Whether the main lamp casts shadows.
    """
    builder = _Builder()
    spec = builder.spec
    # In software, anti-aliasing doubles the time of an image; models shrink the image anyway.
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 1024 if shadows else 0
    spec.visual.map.znear = 0.01
    spec.visual.global_.offwidth, spec.visual.global_.offheight = size_wh
    spec.visual.headlight.ambient = (room.ambient,) * 3
    spec.visual.headlight.diffuse = (0.2,) * 3
    spec.visual.headlight.specular = (0.0,) * 3
    _add_shell(builder, room)
    world = spec.worldbody
    for placement in room.placements:
        body = world.add_body(pos=placement.position, euler=(0.0, 0.0, placement.yaw))
        instance = builder.instance(placement.item.category, placement.item.attributes)
        for part in placement.item.parts:
            builder.add(body, part, instance)
    for light in room.lights:
        world.add_light(
            type=mujoco.mjtLightType.mjLIGHT_SPOT,
            pos=light.position,
            dir=(0.0, 0.0, -1.0),
            cutoff=90.0,
            exponent=1.0,
            attenuation=(1.0, 0.0, 0.02),
            diffuse=(light.diffuse,) * 3,
            specular=(0.25,) * 3,
            castshadow=shadows and light.casts_shadow,
        )
    camera = world.add_body(name=CAMERA_BODY, mocap=True)
    # Given as sensor size and focal length, the frustum keeps its 4:3 shape in every image size: an image
    # rendered at a network's square size is the stretched camera image.
    width, height = _OPTICAL_SIZE_WH
    focal = height / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
    pixel = 1e-5
    camera.add_camera(
        name=CAMERA_BODY,
        resolution=_OPTICAL_SIZE_WH,
        sensor_size=(width * pixel, height * pixel),
        focal_length=(focal * pixel, focal * pixel),
    )
    model = spec.compile()
    for index, material in enumerate(builder.textures):
        start = model.tex_adr[index]
        texture = model.tex_data[start : start + TEXTURE_SIZE * TEXTURE_SIZE * model.tex_nchannel[index]]
        texture.reshape(TEXTURE_SIZE, TEXTURE_SIZE, -1)[:] = material.rgb
    # The compiler orders geometries by body, and bodies were added in this order.
    return Scene(
        model, np.asarray(builder.instances, np.uint16), tuple(builder.categories), tuple(builder.attributes), room
    )
