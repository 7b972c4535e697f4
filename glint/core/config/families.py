"""The encoder families that can be teacher and student, and the published weights known of each, as data.

Sizes are (z, y, x). `glint teachers list` prints this file; `glint.teachers.registry` holds the code of each family.
"""

from dataclasses import dataclass

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VJEPA_URL = "https://dl.fbaipublicfiles.com/vjepa2"

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture. `patch_zyx` is that of its published weights; `slices`: it sees a volume slice by slice.

    `channels` None: as many as there are windows. `sources`: where its weights may come from.
    """

    title: str
    sources: tuple[str, ...]
    channels: int | None
    patch_zyx: Size | None
    slices: bool = False
    square: bool = False


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that somebody published. `volume_zyx`: the input they are documented for, `parameters`: of the encoder alone.
    `mean` and `deviation` of the input in [0, 1]; a preprocessor_config.json beside the weights has the last word.

    `instead`: the ungated entry to take where these are refused.
    """

    family: str
    location: str
    width: int
    depth: int
    heads: int
    parameters: int
    volume_zyx: Size
    licence: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION
    gated: bool = False
    instead: str | None = None


FAMILIES: dict[str, Family] = {
    "vjepa_small": Family(
        title="our own, pretrained on the training split",
        sources=("pretrain", "path"),
        channels=None,
        patch_zyx=None,
    ),
    "vjepa2_1": Family(
        title="V-JEPA 2.1: image and video tokenizers",
        sources=("path",),
        channels=3,
        patch_zyx=(2, 16, 16),
    ),
    "vjepa2": Family(
        title="V-JEPA 2 (transformers VJEPA2Model)",
        sources=("hub", "path"),
        channels=3,
        patch_zyx=(2, 16, 16),
        square=True,
    ),
    "dinov3": Family(
        title="DINOv3 ViT (transformers DINOv3ViTModel)",
        sources=("hub", "path"),
        channels=3,
        patch_zyx=(1, 16, 16),
        slices=True,
    ),
    "dinov2": Family(
        title="DINOv2 ViT (transformers Dinov2Model), X-ray encoders",
        sources=("hub", "path"),
        channels=3,
        patch_zyx=(1, 14, 14),
        slices=True,
    ),
}

PUBLISHED: dict[str, Published] = {
    "vjepa2_1_vitb": Published(
        family="vjepa2_1",
        location=f"{VJEPA_URL}/vjepa2_1_vitb_dist_vitG_384.pt",
        width=768,
        depth=12,
        heads=12,
        parameters=86_828_544,
        volume_zyx=(64, 384, 384),
        licence="MIT",
    ),
    "vjepa2_1_vitl": Published(
        family="vjepa2_1",
        location=f"{VJEPA_URL}/vjepa2_1_vitl_dist_vitG_384.pt",
        width=1024,
        depth=24,
        heads=16,
        parameters=304_674_816,
        volume_zyx=(64, 384, 384),
        licence="MIT",
    ),
    "vjepa2_vitl": Published(
        family="vjepa2",
        location="facebook/vjepa2-vitl-fpc64-256",
        width=1024,
        depth=24,
        heads=16,
        parameters=303_885_312,
        volume_zyx=(64, 256, 256),
        licence="MIT",
    ),
    "dinov3_vits16": Published(
        family="dinov3",
        location="facebook/dinov3-vits16-pretrain-lvd1689m",
        width=384,
        depth=12,
        heads=6,
        parameters=21_596_160,
        volume_zyx=(1, 512, 512),
        licence="DINOv3 License",
        gated=True,
        instead="dinov2_xray",
    ),
    "dinov3_vitb16": Published(
        family="dinov3",
        location="facebook/dinov3-vitb16-pretrain-lvd1689m",
        width=768,
        depth=12,
        heads=12,
        parameters=85_659_648,
        volume_zyx=(1, 512, 512),
        licence="DINOv3 License",
        gated=True,
        instead="dinov2_xray",
    ),
    "dinov3_vitl16": Published(
        family="dinov3",
        location="facebook/dinov3-vitl16-pretrain-lvd1689m",
        width=1024,
        depth=24,
        heads=16,
        parameters=303_128_576,
        volume_zyx=(1, 512, 512),
        licence="DINOv3 License",
        gated=True,
        instead="dinov2_xray",
    ),
    "dinov2_xray": Published(
        family="dinov2",
        location="StanfordAIMI/dinov2-base-xray-224",
        width=768,
        depth=12,
        heads=12,
        parameters=85_724_928,
        volume_zyx=(1, 518, 518),
        licence="see its model card",
    ),
    "rad_dino": Published(
        family="dinov2",
        location="microsoft/rad-dino",
        width=768,
        depth=12,
        heads=12,
        parameters=86_579_712,
        volume_zyx=(1, 518, 518),
        licence="MIT",
    ),
}


def grid_of(volume_zyx: Size, family: str) -> Size:
    """Patches along (z, y, x) that a family makes of a volume; one slice stands for itself where patches are deeper.

    Raises KeyError for a family whose patch the configuration decides.
    """
    patch = FAMILIES[family].patch_zyx
    if patch is None:
        raise KeyError(family)
    (z, y, x), (pz, py, px) = volume_zyx, patch
    return max(1, z // pz), y // py, x // px


def published_at(location: str) -> tuple[str, Published] | None:
    """Name and entry of the published weights at a hub id, an address, or a file that came from it."""
    file = location.rsplit("/", 1)[-1]
    for name, entry in PUBLISHED.items():
        if entry.location == location or ("://" in entry.location and entry.location.endswith(f"/{file}")):
            return name, entry
    return None
