"""The commands of `lepton`: each module has `add`, which declares the arguments, and `execute`, which does the work."""
