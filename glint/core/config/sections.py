"""Configuration of stage 05: which reports are readable and what of them is read."""

from pydantic import Field

from glint.core.config.base import StageConfig


class SectionsConfig(StageConfig):
    """Limits of the readability gate and of what yields findings."""

    min_letters: int = Field(
        default=12, ge=1, description="letters; 'No nodule seen' has 12, less is a stub such as 'see above'"
    )
    max_characters: int = Field(
        default=200_000,
        ge=1000,
        description="characters; real chest reports stay below 10,000, more is a broken export",
    )
    min_letter_share: float = Field(
        default=0.5, ge=0, le=1, description="share of letters in visible characters; less is a table or binary data"
    )
    min_english_share: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="share of words that are common English or in the lexicon; reports have 0.3, other languages 0.05",
    )
    read_unsectioned: bool = Field(
        default=True, description="switch; take findings from reports without headers too (off: their sentences only)"
    )
    language_model: str | None = Field(
        default=None,
        description="hub id or folder of a transformers causal model that reads sentences; null: lexicon and rules only",
    )
    language_model_retries: int = Field(
        default=2,
        ge=0,
        le=5,
        description="questions asked again after an answer that fails its checks; then the rules read",
    )
    language_model_max_tokens: int = Field(
        default=512, ge=1, description="tokens of one answer; a sentence of ten findings needs 400"
    )
