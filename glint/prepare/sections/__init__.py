"""Stage 05: reports become sections, sentences and findings, by lexicon and rules alone."""
