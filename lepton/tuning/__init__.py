"""Autotuning, `leptonc --tune`: the candidates for each distinct product and convolution are measured.

`search.py` finds the kernels and races their candidates, `trial.py` measures one, `cache.py` is the file that
remembers, `defaults.jsonl` what comes with Lepton. docs/tuning.md is for users.
"""
