"""Errors that a user reads: one line each, naming the file, the value and the way out."""


class GlintError(Exception):
    """An expected failure; the command line prints it and exits with 1.

    The text never carries an identifier of a patient, a study or a person.
    """


class ConfigError(GlintError):
    """A configuration key is unknown, of the wrong type, or contradicts another."""


class InputError(GlintError):
    """An input file, folder or table is absent, empty or unreadable."""


class GeometryError(GlintError):
    """An array, spacing or affine does not describe a regular volume."""


class FingerprintError(GlintError):
    """An artefact was made from other inputs than the reader expects."""


class PrivacyError(GlintError):
    """An identifier would leave, or the key that hides identifiers is unusable."""


class Quarantine(GlintError):
    """One study, series or report can't be used; the rest of the shard goes on.

    Args:
        reason: Short snake_case code that manifests and summaries count.
        detail: One sentence for a person, without identifiers.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["Quarantine"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)
