"""What the hospital's readers say of chest films: zones instead of lobes, silhouettes and angles instead of slices.

Every noun phrase must be one that the lexicon of stage 05 understands; a test reads them all.
"""

from __future__ import annotations

from glint.demo import phrases
from glint.demo.phrases import Phrasebook

TERMS: dict[str, tuple[str, ...]] = {
    "nodule": (
        "nodular opacity",
        "pulmonary nodule",
        "lung nodule",
        "nodular density",
        "coin lesion",
        "rounded nodule",
    ),
    "mass": ("lung mass", "mass-like opacity", "pulmonary mass", "soft tissue mass", "hilar mass", "mass lesion"),
    "consolidation": (
        "airspace opacity",
        "consolidation",
        "airspace disease",
        "focal consolidation",
        "airspace consolidation",
        "pneumonic infiltrate",
    ),
    "ground_glass_opacity": (
        "hazy opacity",
        "hazy opacities",
        "ground-glass opacity",
        "hazy increased attenuation",
        "hazy attenuation",
    ),
    "pleural_effusion": (
        "pleural effusion",
        "pleural fluid",
        "effusion",
        "layering effusion",
        "blunting of the costophrenic angle",
    ),
    "pneumothorax": ("pneumothorax", "apical pneumothorax", "pleural air", "pneumothorax with a visible pleural line"),
    "emphysema": (
        "emphysema",
        "emphysematous change",
        "hyperinflation",
        "emphysematous changes",
        "bullous change",
    ),
    "atelectasis": (
        "atelectasis",
        "atelectatic change",
        "volume loss",
        "partial collapse",
        "atelectatic opacity",
        "subsegmental atelectasis",
    ),
    "cardiomegaly": (
        "cardiomegaly",
        "enlarged cardiac silhouette",
        "cardiac enlargement",
        "enlarged heart",
        "prominent cardiac silhouette",
    ),
    "hiatal_hernia": ("hiatal hernia", "hiatus hernia", "intrathoracic stomach", "sliding hiatal hernia"),
}

FRAMES: dict[str, tuple[str, ...]] = {
    **phrases.FRAMES,
    "focal": (
        "{there_is} {where}, measuring {size}.",
        "{Term} projects over the {site}, {size}.",
        "{Site} {term} measuring approximately {size}.",
        "{Term} {where}, about {size}.",
        "A {size} {term} projects over the {site}.",
    ),
    "opacity": (
        "{there_is} {where}.",
        "{Term} {where}.",
        "{Site} {term}.",
        "{Term} projects over the {site}.",
        "{Term} is seen {where}.",
        "Patchy {term} {where}.",
    ),
    "pleural": (
        "{Grade} {side} {term}.",
        "{There_is_graded} on the {side}.",
        "{Side}-sided {term}, {grade} in size.",
        "{Grade} {term} on the {side}.",
        "{Grade} {side}-sided {term} is present.",
    ),
    "heart": (
        "{There_is_plain}.",
        "{Term} is present.",
        "The heart is enlarged.",
        "The cardiac silhouette is enlarged.",
        "Heart size is increased.",
        "The cardiothoracic ratio is increased.",
    ),
    "hernia": (
        "{There_is_plain}.",
        "{Term} with a retrocardiac air-fluid level.",
        "Retrocardiac {term}.",
        "{Term} is noted behind the heart.",
    ),
}

NEGATIONS: dict[str, tuple[str, ...]] = {
    **phrases.NEGATIONS,
    "consolidation": ("No focal consolidation.", "No focal airspace consolidation.", "No consolidation is seen."),
    "ground_glass_opacity": ("No hazy opacity.", "No ground-glass opacity."),
    "pleural_effusion": ("No pleural effusion.", "There is no pleural effusion.", "The costophrenic angles are clear."),
    "cardiomegaly": (
        "The heart is normal in size.",
        "Heart size is normal.",
        "The cardiac silhouette is within normal limits.",
        "The cardiomediastinal silhouette is normal.",
    ),
}

FILM = Phrasebook(
    study="a chest radiograph",
    prior="Chest radiograph",
    technique="Chest radiograph, {how}.",
    headless="Chest {how}.",
    zones=True,
    terms=TERMS,
    counted=phrases.COUNTED | {"density"},
    frames=FRAMES,
    frame_of=phrases.FRAME_OF,
    hedges=phrases.HEDGES,
    negations=NEGATIONS,
    negated_pairs=phrases.NEGATED_PAIRS,
    normal_organs=(
        "The mediastinal contours are unremarkable.",
        "The hilar contours are normal.",
        "The trachea is midline.",
        "No acute osseous abnormality.",
        "The visualized osseous structures are intact.",
        "Degenerative changes of the thoracic spine.",
        "The pulmonary vasculature is within normal limits.",
        "No free air under the diaphragm.",
        "The diaphragm is sharply outlined.",
        "The aorta is tortuous.",
    ),
    normal_impressions=(
        "No acute cardiopulmonary process.",
        "No acute cardiopulmonary abnormality.",
        "Normal chest radiograph.",
        "No radiographic evidence of acute disease.",
        "No acute findings.",
    ),
    normal_lungs=("The lungs are clear.", "Both lungs are clear.", "The lungs are clear bilaterally.", "Clear lungs."),
    changes=(
        "This is new since the prior film.",
        "Unchanged compared to the prior radiograph.",
        "Slightly increased since the prior study.",
        "Similar to prior.",
        "Slightly improved in the interval.",
    ),
    reasons=(
        "Cough and fever.",
        "Shortness of breath.",
        "Chest pain.",
        "Productive cough.",
        "Follow-up.",
        "Trauma.",
        "Line placement.",
        "Preoperative evaluation.",
        "Hypoxia.",
    ),
)
