if __name__ != "lepton.passes":
    raise ImportError("import lepton.passes")
