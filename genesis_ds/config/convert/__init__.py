"""From a TOML of the earlier Genesis Arbiter code to the YAML of a run, with every key accounted for."""
