"""Bodies, findings and masks as arrays."""

import numpy as np
import pytest

from glint.core.config.demo import DemoConfig
from glint.demo.catalogue import FINDINGS, choose_findings, patient_of
from glint.demo.patient import SyntheticStudy, synthesise

CONFIG = DemoConfig()
IN_LUNG = set(FINDINGS) - {"cardiomegaly", "hiatal_hernia"}


@pytest.fixture(scope="module")
def studies() -> list[SyntheticStudy]:
    return [synthesise(5, number, CONFIG) for number in range(16)]


def test_a_quarter_is_normal_and_every_finding_has_its_share_of_studies():
    chosen = [choose_findings(CONFIG.seed, number, CONFIG) for number in range(240)]
    assert sum(not one for one in chosen) == 60
    assert all(1 <= len(one) <= 4 and len(set(one)) == len(one) for one in chosen if one)
    for name in FINDINGS:
        assert 0.10 <= np.mean([name in one for one in chosen]) <= 0.27, name


def test_effusion_keeps_company_with_atelectasis_more_than_chance():
    chosen = [choose_findings(1, number, CONFIG) for number in range(2000)]
    effusion = np.array(["pleural_effusion" in one for one in chosen])
    collapse = np.array(["atelectasis" in one for one in chosen])
    assert collapse[effusion].mean() > 1.5 * collapse[~effusion].mean()


def test_a_larger_hospital_begins_with_the_studies_of_a_smaller_one():
    small, large = DemoConfig(studies=10), DemoConfig(studies=500)
    assert np.array_equal(synthesise(2, 7, small).volume_hu_ZYX, synthesise(2, 7, large).volume_hu_ZYX)


def test_a_second_visit_belongs_to_the_patient_before_and_nobody_comes_three_times():
    patients = [patient_of(9, number, DemoConfig(repeat_fraction=0.5)) for number in range(400)]
    counts = np.bincount(patients)
    assert counts.max() == 2
    assert all(patient in (number, number - 1) for number, patient in enumerate(patients))


def test_masks_are_not_empty_and_lie_in_the_body_and_lung_findings_in_the_lung(studies):
    for study in studies:
        assert set(study.masks) == {found.finding for found in study.findings}
        for name, mask in study.masks.items():
            assert mask.any(), name
            assert not (mask & ~study.body_ZYX).any(), name
            if name in IN_LUNG:
                assert not (mask & ~study.lung_ZYX).any(), name


def test_findings_of_the_lung_never_claim_the_same_voxel(studies):
    for study in studies:
        claimed = sum(mask.astype(int) for name, mask in study.masks.items() if name in IN_LUNG)
        assert np.max(claimed) <= 1


def test_side_and_zone_agree_with_where_the_mask_lies(studies):
    checked = 0
    for study in studies:
        centre_x = (study.volume_hu_ZYX.shape[2] - 1) / 2
        lung_z = np.median(np.nonzero(study.lung_ZYX)[0])
        for found in study.findings:
            z, _, x = np.nonzero(study.masks[found.finding])
            if found.laterality in ("left", "right"):
                # DICOM's columns run from the patient's right to the left.
                assert (x.mean() > centre_x) == (found.laterality == "left"), found
                checked += 1
            if found.finding == "emphysema" and found.region == "upper":
                assert z.mean() > lung_z
            if found.finding == "atelectasis":
                assert z.mean() < lung_z + 2
    assert checked >= 8


def test_findings_but_the_nodule_fill_about_a_patch_or_more(studies):
    for study in studies:
        voxel_cm3 = np.prod(study.spacing_mm) / 1000
        for name, mask in study.masks.items():
            volume = mask.sum() * voxel_cm3
            low, high = (3, 40) if name == "nodule" else (28, 2000)
            assert low < volume < high, name


def test_tissues_have_plausible_numbers_and_normals_differ_from_each_other(studies):
    means = []
    for study in studies:
        hu, lung = study.volume_hu_ZYX, study.lung_ZYX
        free = lung & ~np.logical_or.reduce([*study.masks.values(), np.zeros_like(lung)])
        assert -920 < np.median(hu[free]) < -720
        assert np.median(hu[~study.body_ZYX]) < -960
        assert np.percentile(hu[study.body_ZYX], 99.5) > 250
        flesh = study.body_ZYX & ~lung
        assert -60 < np.median(hu[flesh]) < 90
        assert 1.0 < lung.sum() * np.prod(study.spacing_mm) / 1e6 < 4.5
        means.append(hu[study.body_ZYX].mean())
    normal = [mean for mean, study in zip(means, studies, strict=True) if not study.findings]
    ill = [mean for mean, study in zip(means, studies, strict=True) if study.findings]
    assert min(ill) < np.mean(normal) < max(ill)


def test_an_enlarged_heart_is_wider_than_every_normal_one(studies):
    from glint.demo.anatomy import draw_body, draw_visit, paint

    rng = np.random.default_rng(0)
    normal = []
    for _ in range(4):
        chest = paint(draw_body(rng, 212.0), draw_visit(rng), (48, 96, 96), (4.4, 3.2, 3.2))
        normal.append(np.ptp(np.nonzero(chest.heart_ZYX)[2]) * 3.2)
    for study in studies:
        if "cardiomegaly" in study.masks:
            width = np.ptp(np.nonzero(study.masks["cardiomegaly"])[2]) * study.spacing_mm[2]
            assert width > max(normal)
