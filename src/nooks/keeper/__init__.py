"""The descriptor keeper: a tiny process without policy, so that the supervisor may die (DESIGN rule 7)."""
