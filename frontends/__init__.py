if __name__ != "lepton.frontends":
    raise ImportError("import lepton.frontends")
