"""What a model is: types, values, nodes, ops, text, meaning. Imports nothing else of Lepton's."""
if __name__ != "lepton.ir":
    raise ImportError("import lepton.ir")
