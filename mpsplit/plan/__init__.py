"""Who owns what: pure functions over frozen dataclasses. In: a config.json and numbers of ranks. Out: a Plan. No torch."""
