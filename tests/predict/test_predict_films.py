"""Films: asked as pictures or DICOM, answered on the film's own pixels."""

import numpy as np
import pytest
from PIL import Image
from test_predict import BrightnessModel

from glint.core.config.convert import FilmConvertConfig
from glint.core.config.resample import FilmResampleConfig
from glint.core.errors import InputError, Quarantine
from glint.formats.checkpoint import Preprocessing
from glint.predict import predict
from glint.predict.outputs import write_prediction

EDGE, PATCHES = 64, 16


def film_model():
    model = BrightnessModel()
    model.preprocessing = Preprocessing(
        modality="cxr",
        windows=((0.0, 65535.0),),
        volume=(1, EDGE, EDGE),
        patch=(1, 4, 4),
        grid=(1, PATCHES, PATCHES),
        convert=FilmConvertConfig(min_edge=64).model_dump(mode="json"),
        resample=FilmResampleConfig(grid_yx=(EDGE, EDGE)).model_dump(mode="json"),
    )
    return model


class FilmModel(BrightnessModel):
    def encode_volume(self, volume_BCZYX):
        import torch

        return torch.nn.functional.avg_pool3d(volume_BCZYX, (1, 4, 4)).flatten(1)


def model():
    made, films = film_model(), FilmModel()
    films.preprocessing = made.preprocessing
    return films


@pytest.fixture
def film(tmp_path):
    """256 high, 192 wide: a gray ramp and one bright square well to the right of the picture."""
    pixels = np.tile(np.linspace(40, 110, 192), (256, 1))
    truth = np.zeros(pixels.shape, bool)
    truth[64:128, 128:176] = True
    pixels[truth] = 250
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "film.png")
    return tmp_path / "film.png", truth


def test_a_bright_square_is_found_on_the_films_own_pixels(film, tmp_path):
    path, truth = film
    prediction = predict(model(), path, ["metal"])
    reply = prediction.replies[0]
    assert reply.present and reply.mask_ZYX.shape == (1, 256, 192)
    both = (reply.mask_ZYX[0] & truth).sum()
    assert 2 * both / (reply.mask_ZYX.sum() + truth.sum()) > 0.75
    assert truth[reply.peak_zyx[1:]]
    assert reply.peak_mm is None
    told = write_prediction(prediction, tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / told["replies"][0]["mask"]))
    assert (mask.astype(bool) == reply.mask_ZYX[0]).all()
    assert told["dicom_seg"] is None and "no DICOM SEG" in told["notes"][-1]
    assert (tmp_path / "out" / told["replies"][0]["picture"]).read_bytes().startswith(b"\x89PNG")


def test_a_large_film_fills_its_picture_and_the_mark_lies_on_it(tmp_path):
    pixels = np.tile(np.linspace(40, 110, 1800), (1500, 1))
    pixels[1100:1300, 1500:1700] = 250
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "film.png")
    told = write_prediction(predict(model(), tmp_path / "film.png", ["metal"]), tmp_path / "out")
    seen = np.asarray(Image.open(tmp_path / "out" / told["replies"][0]["picture"]).convert("RGB"))
    assert (seen < 250).any(axis=2).mean() > 0.6


def test_a_capture_that_is_named_is_read(real_data):
    """One of the RSNA films: modality CR, stored as Secondary Capture."""
    (file,) = (real_data / "2_cxr_dicom" / "rsna_jpeg_baseline").glob("1.2.*.dcm")
    assert predict(model(), file, ["metal"]).scan.original_ZYX.shape == (1, 1024, 1024)


def test_a_volume_is_no_film_and_an_empty_picture_no_chest(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="trained on films"):
        predict(model(), tmp_path / "scan.nii.gz", ["metal"])
    Image.fromarray(np.full((200, 200), 7, np.uint8)).save(tmp_path / "blank.png")
    with pytest.raises(Quarantine, match="blank_film"):
        predict(model(), tmp_path / "blank.png", ["metal"])
