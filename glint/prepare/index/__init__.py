"""Stage 01: what lies in the raw folders and the report table, and what can't be used, and why."""
