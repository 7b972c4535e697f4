"""How a sentence relates to a study: codes of the (T, B) relation matrix that report parsing makes and losses read."""

POSITIVE = 1
NEGATIVE = 0
HARD_NEGATIVE = 2
IGNORE = -1
