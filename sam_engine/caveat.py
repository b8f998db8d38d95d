"""What a reader has to know before relying on a statistic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caveat:
    """One reason for care.

    Attributes:
        code: stable name of the reason, such as `too_few_objects`.
        message: one sentence with the numbers of this sample.
        statistic: name of the field that it concerns; None where it concerns the whole result.
    """

    code: str
    message: str
    statistic: str | None = None
