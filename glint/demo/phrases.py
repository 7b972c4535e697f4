"""Everything the radiologists of the hospital can say, in one place.

TERMS holds the noun phrases of each finding; a lexicon that knows these understands every report of the demo.
Slots of the frames: {there_is} "There is a lung mass", {Term} and {term} the noun phrase,
{where} "in the right upper lobe", {site} "right upper lobe", {side} "right", {size} "24 mm",
{grade} "small"; capitals begin a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phrasebook:
    """What readers of one kind of study say. study: as patients present for it; prior: as it is compared with.

    technique and headless take {how}; zones: places are zones of a film, not lobes.
    """

    study: str
    prior: str
    technique: str
    headless: str
    zones: bool
    terms: dict[str, tuple[str, ...]]
    counted: frozenset[str]
    frames: dict[str, tuple[str, ...]]
    frame_of: dict[str, str]
    hedges: tuple[str, ...]
    negations: dict[str, tuple[str, ...]]
    negated_pairs: dict[tuple[str, str], tuple[str, ...]]
    normal_organs: tuple[str, ...]
    normal_impressions: tuple[str, ...]
    normal_lungs: tuple[str, ...]
    changes: tuple[str, ...]
    reasons: tuple[str, ...]


TERMS: dict[str, tuple[str, ...]] = {
    "nodule": (
        "pulmonary nodule",
        "lung nodule",
        "solid nodule",
        "nodular opacity",
        "nodular lesion",
        "rounded nodule",
        "parenchymal nodule",
    ),
    "mass": (
        "lung mass",
        "pulmonary mass",
        "spiculated mass",
        "lobulated mass",
        "mass lesion",
        "solid mass",
        "soft tissue mass",
    ),
    "consolidation": (
        "consolidation",
        "airspace consolidation",
        "consolidative opacity",
        "airspace disease",
        "pneumonic infiltrate",
        "dense airspace opacity",
        "consolidation with air bronchograms",
    ),
    "ground_glass_opacity": (
        "ground-glass opacity",
        "ground glass opacities",
        "ground-glass attenuation",
        "hazy ground-glass change",
        "GGO",
        "hazy increased attenuation",
        "ground-glass density",
    ),
    "pleural_effusion": (
        "pleural effusion",
        "pleural fluid",
        "pleural fluid collection",
        "layering effusion",
        "fluid in the pleural space",
        "effusion",
        "free pleural fluid",
    ),
    "pneumothorax": (
        "pneumothorax",
        "pleural air",
        "air in the pleural space",
        "intrapleural air",
        "pneumothorax with a visible pleural line",
        "intrapleural gas",
    ),
    "emphysema": (
        "emphysema",
        "emphysematous change",
        "emphysematous changes",
        "centrilobular emphysema",
        "pulmonary emphysema",
        "emphysematous destruction",
        "bullous emphysema",
    ),
    "atelectasis": (
        "atelectasis",
        "atelectatic change",
        "atelectatic lung",
        "passive atelectasis",
        "partial collapse",
        "collapse with volume loss",
        "compressive atelectasis",
    ),
    "cardiomegaly": (
        "cardiomegaly",
        "cardiac enlargement",
        "enlarged heart",
        "enlarged cardiac silhouette",
        "increased heart size",
        "cardiac dilatation",
    ),
    "hiatal_hernia": (
        "hiatal hernia",
        "hiatus hernia",
        "sliding hiatal hernia",
        "paraesophageal hernia",
        "intrathoracic stomach",
        "gastric herniation through the hiatus",
    ),
}

COUNTED = frozenset(
    {
        "nodule",
        "opacity",
        "lesion",
        "mass",
        "infiltrate",
        "effusion",
        "collection",
        "pneumothorax",
        "hernia",
        "silhouette",
        "heart",
        "stomach",
    }
)
"""Last words of terms that take an article."""

FRAMES: dict[str, tuple[str, ...]] = {
    "focal": (
        "{there_is} {where}, measuring {size}.",
        "{there_is} {where}, {size} in diameter.",
        "{Term} {where} measuring {size}.",
        "{Site} {term} measuring {size}.",
        "In the {site}, {there_is_low} of {size}.",
        "{Term} is noted {where}, {size}.",
        "A {size} {term} is seen {where}.",
    ),
    "opacity": (
        "{there_is} {where}.",
        "{Term} {where}.",
        "{Site} {term}.",
        "{Term} is present {where}, extending over {size}.",
        "Area of {term} {where}.",
        "{Term} {where}, measuring approximately {size}.",
    ),
    "pleural": (
        "{Grade} {side} {term}.",
        "{There_is_graded} on the {side}.",
        "{Side}-sided {term}, {grade} in amount.",
        "{Side} {term}, {grade}.",
        "{Grade} {term} on the {side}, up to {size} in depth.",
        "{Grade} {side}-sided {term} is seen.",
    ),
    "pleural_bilateral": (
        "{Grade} bilateral {term}.",
        "Bilateral {term}, {grade} in amount.",
        "{Grade} {term} on both sides.",
        "{Term} bilaterally, {grade}.",
    ),
    "diffuse": (
        "{Grade} {term} {where}.",
        "{Term} {where}, {grade} in extent.",
        "{There_is_graded} {where}.",
        "{Grade} {term}, most marked {where}.",
    ),
    "heart": (
        "{There_is_plain}.",
        "{Term} is present.",
        "{Term} is noted.",
        "The heart is enlarged.",
        "Heart size is increased.",
        "{Term}, transverse diameter {size}.",
    ),
    "hernia": (
        "{There_is_plain}.",
        "{There_is_plain}, measuring {size}.",
        "{Term} of {size} behind the heart.",
        "Retrocardiac {term} is noted.",
        "{Term} measuring {size} with an air-fluid level.",
    ),
}

FRAME_OF: dict[str, str] = {
    "nodule": "focal",
    "mass": "focal",
    "consolidation": "opacity",
    "ground_glass_opacity": "opacity",
    "atelectasis": "opacity",
    "pleural_effusion": "pleural",
    "pneumothorax": "pleural",
    "emphysema": "diffuse",
    "cardiomegaly": "heart",
    "hiatal_hernia": "hernia",
}

HEDGES: tuple[str, ...] = (
    "Possible {term}{where_}.",
    "Findings are suspicious for {term}{where_}.",
    "Probable {term}{where_}.",
    "{Term}{where_} cannot be excluded.",
    "Appearances may represent {term}{where_}.",
    "Questionable {term}{where_}.",
)

NEGATIONS: dict[str, tuple[str, ...]] = {
    "nodule": ("No suspicious pulmonary nodule.", "No lung nodules are seen.", "No pulmonary nodule is identified."),
    "mass": ("No lung mass.", "No pulmonary mass is seen.", "No evidence of a mass."),
    "consolidation": ("No focal consolidation.", "There is no airspace consolidation.", "No consolidation is seen."),
    "ground_glass_opacity": ("No ground-glass opacity.", "No ground glass opacities are seen."),
    "pleural_effusion": ("No pleural effusion.", "There is no pleural effusion.", "No pleural fluid."),
    "pneumothorax": ("No pneumothorax.", "There is no evidence of pneumothorax.", "Negative for pneumothorax."),
    "emphysema": ("No emphysema.", "No emphysematous changes."),
    "atelectasis": ("No atelectasis.", "No evidence of atelectasis."),
    "cardiomegaly": ("The heart is normal in size.", "No cardiomegaly.", "Heart size is within normal limits."),
    "hiatal_hernia": ("No hiatal hernia.", "There is no hiatal hernia."),
}

NEGATED_PAIRS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pleural_effusion", "pneumothorax"): (
        "No pleural effusion or pneumothorax.",
        "There is no pleural effusion or pneumothorax.",
        "No evidence of pneumothorax or pleural effusion.",
    ),
    ("nodule", "mass"): ("No suspicious nodule or mass.", "No pulmonary nodule or mass is seen."),
    ("consolidation", "ground_glass_opacity"): ("No consolidation or ground-glass opacity.",),
}

NORMAL_ORGANS: tuple[str, ...] = (
    "The trachea and main bronchi are patent.",
    "No enlarged mediastinal or hilar lymph nodes.",
    "The thoracic aorta is of normal calibre.",
    "No pericardial effusion.",
    "The visualized upper abdominal organs are unremarkable.",
    "Degenerative changes of the thoracic spine.",
    "No acute osseous abnormality.",
    "The main pulmonary artery is not dilated.",
    "The thyroid gland is unremarkable.",
    "The visualized liver and spleen are unremarkable.",
    "No suspicious lytic or sclerotic bone lesion.",
    "The chest wall soft tissues are unremarkable.",
    "Mild atherosclerotic calcification of the coronary arteries.",
)

NORMAL_IMPRESSIONS: tuple[str, ...] = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest CT.",
    "Unremarkable CT of the chest.",
    "No acute findings in the chest.",
    "No significant abnormality.",
)

NORMAL_LUNGS: tuple[str, ...] = (
    "The lungs are clear.",
    "Both lungs are clear.",
    "Lung parenchyma is unremarkable.",
    "The lungs are well aerated.",
)

CHANGES: tuple[str, ...] = (
    "This is new since the prior study.",
    "Unchanged compared to the prior examination.",
    "Slightly increased since the prior study.",
    "This is similar to the prior CT.",
    "Slightly decreased in the interval.",
)

REASONS: tuple[str, ...] = (
    "Cough and fever.",
    "Shortness of breath.",
    "Chest pain.",
    "Weight loss, smoker.",
    "Follow-up.",
    "Trauma.",
    "Dyspnea on exertion.",
    "Preoperative evaluation.",
    "Abnormal chest radiograph.",
)

HEADERS: dict[str, tuple[str, ...]] = {
    "indication": ("CLINICAL INFORMATION:", "Clinical information:", "INDICATION:", "History:", "Clinical Indication:"),
    "technique": ("TECHNIQUE:", "Technique:", "PROCEDURE:"),
    "comparison": ("COMPARISON:", "Comparison:"),
    "findings": ("FINDINGS:", "Findings", "Findings:", "REPORT:", "FINDINGS"),
    "impression": ("IMPRESSION:", "Impression", "Impression:", "CONCLUSION:", "OPINION:"),
    "combined": ("FINDINGS AND IMPRESSION:", "Findings/Impression:"),
}

MONTHS: tuple[str, ...] = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

CT = Phrasebook(
    study="CT",
    prior="CT",
    technique="CT of the chest was performed {how}.",
    headless="CT chest {how}.",
    zones=False,
    terms=TERMS,
    counted=COUNTED,
    frames=FRAMES,
    frame_of=FRAME_OF,
    hedges=HEDGES,
    negations=NEGATIONS,
    negated_pairs=NEGATED_PAIRS,
    normal_organs=NORMAL_ORGANS,
    normal_impressions=NORMAL_IMPRESSIONS,
    normal_lungs=NORMAL_LUNGS,
    changes=CHANGES,
    reasons=REASONS,
)
