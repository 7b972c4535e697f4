"""Published annotation files of public benchmarks → one typed table, and from there the truth of stage 10."""
